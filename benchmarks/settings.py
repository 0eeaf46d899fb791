"""Which settings suit the miniature: the method with each, on the clips for choosing settings; and which learning
rate suits each variant that tunes other temporal layers.

    python benchmarks/settings.py --work settings --json settings/figures.json
    python benchmarks/settings.py --work settings --only video-ldm make-a-video

A minute a clip and setting on two CPU cores; two runs with `--threads 1` and different `--only` are faster than one.
"""

from dataclasses import replace

import torch
from choosing import Table, choosing_parser, chosen_clips, chosen_of, parsed

from tav_core.demo.miniature import miniature_path
from tav_core.demo.settings import SETTINGS, Settings
from tav_core.evaluation.evaluate import evaluate
from tav_core.evaluation.variants import VARIANTS, Variant
from tav_core.jobs.base import open_base

CHOICES = {
    "as it is": {},
    "30 tuning steps": {"tuning_steps": 30},
    "300 tuning steps": {"tuning_steps": 300},
    "100 tuning steps at 1e-3": {"learning_rate": 1e-3},
    "30 tuning steps at 1e-3": {"tuning_steps": 30, "learning_rate": 1e-3},
    "guidance 1.5 at 1e-3": {"guidance_scale": 1.5, "learning_rate": 1e-3},
    "guidance 4 at 1e-3": {"guidance_scale": 4.0, "learning_rate": 1e-3},
    "guidance 1.5": {"guidance_scale": 1.5},
    "guidance 4": {"guidance_scale": 4.0},
    "guidance 7.5": {"guidance_scale": 7.5},
    "50 steps": {"steps": 50, "inversion_steps": 50},
    "GroupNorm over the video": {"group_norm": "video"},
}
TEMPORAL_LAYERS = ("position-bias", "convolution", "alpha", "make-a-video", "video-ldm", "video-diffusion")
LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3)


def choices() -> dict[str, tuple[Settings, Variant]]:
    """Settings and variant of each choice, by a name that says so."""
    found = {name: (replace(SETTINGS, **changes), VARIANTS["full"]) for name, changes in CHOICES.items()}
    for name, rate in (("all kept", SETTINGS.learning_rate), ("all kept at 1e-3", 1e-3)):
        found[name] = replace(SETTINGS, learning_rate=rate), VARIANTS["keep-all"]
    for name in TEMPORAL_LAYERS:
        for rate in LEARNING_RATES:
            found[f"{name} at {rate:g}"] = replace(SETTINGS, learning_rate=rate), VARIANTS[name]
    return found


def main() -> None:
    options = parsed(choosing_parser(__doc__, "settings"))
    checkpoint = open_base(miniature_path(), device=torch.device("cpu")).checkpoint
    table = Table(options)
    found = choices()
    for choice in chosen_of(options, found):
        settings, variant = found[choice]
        work = options.work / choice.replace(" ", "-")
        work.mkdir(exist_ok=True)
        for outcome in evaluate(checkpoint, chosen_clips(options), {choice: variant}, settings, work=work):
            table.add(outcome.variant, outcome)
    table.show()


if __name__ == "__main__":
    main()
