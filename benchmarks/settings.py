"""Which settings suit the miniature: the plain method with each, on the clips for choosing settings.

    python benchmarks/settings.py --work settings --json settings/figures.json

A minute a clip and setting on two CPU cores; two runs with `--threads 1` and different `--only` are faster than one.
"""

from dataclasses import replace

import torch
from choosing import Table, choosing_parser, chosen_clips, is_chosen, parsed

from tav_core.demo.miniature import miniature_path
from tav_core.demo.settings import SETTINGS
from tav_core.evaluation.evaluate import evaluate
from tav_core.evaluation.variants import VARIANTS
from tav_core.jobs.base import open_base

CHOICES = {
    "as it is": {},
    "30 tuning steps": {"tuning_steps": 30},
    "300 tuning steps": {"tuning_steps": 300},
    "300 tuning steps at 3e-4": {"tuning_steps": 300, "learning_rate": 3e-4},
    "guidance 1.5": {"guidance_scale": 1.5},
    "guidance 4": {"guidance_scale": 4.0},
    "guidance 7.5": {"guidance_scale": 7.5},
    "50 steps": {"steps": 50, "inversion_steps": 50},
    "GroupNorm over the video": {"group_norm": "video"},
}


def main() -> None:
    options = parsed(choosing_parser(__doc__, "settings"))
    checkpoint = open_base(miniature_path(), device=torch.device("cpu")).checkpoint
    table, full = Table(options), {"full": VARIANTS["full"]}
    for choice in (name for name in CHOICES if is_chosen(options, name)):
        work = options.work / choice.replace(" ", "-")
        work.mkdir(exist_ok=True)
        settings = replace(SETTINGS, **CHOICES[choice])
        for outcome in evaluate(checkpoint, chosen_clips(options), full, settings, work=work):
            table.add(outcome.variant if outcome.is_reference else choice, outcome)
    table.show()


if __name__ == "__main__":
    main()
