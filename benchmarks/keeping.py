"""How far each dial of what an edit keeps can go: curves on the clips for choosing settings, with the miniature.

    python benchmarks/keeping.py --work keeping --json keeping/curves.json

For each setting it gives the mean and the worst edit of what the prompt asked for (edit right) and of what should stay
(IoU, largest error of the centre, jitter, size jumps, background). Samples are kept in the work folder, so that an
interrupted run goes on. About two minutes a clip and setting on two CPU cores.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from tav_core.borrow import Structure
from tav_core.demo.miniature import miniature_path
from tav_core.demo.settings import SETTINGS
from tav_core.evaluation.evaluate import evaluate
from tav_core.evaluation.variants import Sampling, Variant
from tav_core.inflate import inflate, transformer_blocks
from tav_core.jobs.base import open_base
from tav_core.lend import structure_of
from tav_core.source import Dials
from tav_core.world.protocol import clips_to_choose_by

SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
FIGURES = ("edit_right", "iou", "largest_centre_error", "jitter", "size_jump", "background_psnr", "other_psnr")


def settings_of(default: Structure, resnets: list[str], transformers: list[str]) -> dict[str, Sampling]:
    """Each dial alone, its parts alone, and all together, by a name that says so."""
    decoder = [path for path in transformers if path.startswith("up_blocks.")]
    parts = {
        "structure": default,
        "features": Structure(default.features),
        "attention": Structure((), default.attention),
        "with temporal": Structure(default.features, default.attention, decoder),
        **{f"features {path}": Structure((path,)) for path in resnets if path.startswith("up_blocks.")},
    }
    found = {"plain": Sampling()}
    for name, structure in parts.items():
        for share in SHARES if name in ("structure", "features", "attention") else (0.6,):
            found[f"{name} {share}"] = Sampling(dials=Dials(structure=share), borrows=structure)
    for share in SHARES:
        found[f"layout {share}"] = Sampling(dials=Dials(layout=share))
    for mask in ("true", "word"):
        found[f"mask {mask}"] = Sampling(mask=mask)
        for structure, layout in ((0.4, 0.4), (0.6, 0.4), (0.8, 0.4), (0.6, 0.8)):
            name = f"structure {structure}, layout {layout}, mask {mask}"
            found[name] = Sampling(dials=Dials(structure, layout), mask=mask)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("keeping"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--clips", type=int, default=12, help="how many of the 12 clips")
    parser.add_argument("--only", nargs="*", default=(), help="settings whose names start so")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    checkpoint = open_base(miniature_path(), device=torch.device("cpu")).checkpoint
    resnets = [n.removesuffix(".conv2") for n, _ in checkpoint.unet.named_modules() if n.endswith(".conv2")]
    transformers = list(transformer_blocks(checkpoint.unet))
    default = structure_of(inflate(checkpoint.unet))
    checkpoint = open_base(miniature_path(), device=torch.device("cpu")).checkpoint  # not inflated
    chosen = {
        name: Variant(name, sampling=sampling)
        for name, sampling in settings_of(default, resnets, transformers).items()
        if not options.only or name.startswith(tuple(options.only))
    }
    measured: dict[str, list[dict]] = {}
    for outcome in evaluate(checkpoint, clips_to_choose_by()[: options.clips], chosen, SETTINGS, work=options.work):
        for kind, figures in outcome.figures.items():
            if kind:
                where = {"clip": outcome.clip.name, "kind": kind}
                measured.setdefault(outcome.variant, []).append(where | figures)
        if options.json:
            options.json.write_text(json.dumps(measured, indent=1) + "\n")
        if not outcome.is_reference:
            print(outcome.clip.name, outcome.variant, _line(measured[outcome.variant][-4:]), flush=True)
    for kinds in (("object", "attribute"), ("background", "style")):
        print(f"\n| {' and '.join(kinds)} edits: mean (worst) | {' | '.join(FIGURES)} |")
        print(f"| --- |{' ---: |' * len(FIGURES)}")
        for name, edits in measured.items():
            own = [edit for edit in edits if edit["kind"] in kinds]
            print(f"| {name} | {' | '.join(_cell(own, figure) for figure in FIGURES)} |")


def _cell(edits: list[dict], figure: str) -> str:
    values = [edit[figure] for edit in edits if figure in edit]
    if not values:
        return "-"
    worst = max if figure in ("largest_centre_error", "jitter", "size_jump") else min
    return f"{np.mean(values):.3g} ({worst(values):.3g})"


def _line(edits: list[dict]) -> str:
    return ", ".join(f"{figure} {np.mean([e[figure] for e in edits if figure in e]):.3g}" for figure in FIGURES[:4])


if __name__ == "__main__":
    main()
