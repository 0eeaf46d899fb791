"""How far each dial of what an edit keeps can go: curves on the clips for choosing settings, with the miniature.

    python benchmarks/keeping.py --work keeping --json keeping/curves.json

For each setting it gives the mean and the worst edit of what the prompt asked for (edit right) and of what should stay
(IoU, largest error of the centre, jitter, size jumps, background). Samples are kept in the work folder, so that an
interrupted run goes on. Half a minute a clip and setting on two CPU cores; two runs with `--threads 1` and different
`--clips` are faster than one.
"""

import torch
from choosing import Table, choosing_parser, chosen_clips, chosen_of, parsed

from tav_core.borrow import Structure
from tav_core.demo.miniature import miniature_path
from tav_core.demo.settings import SETTINGS
from tav_core.evaluation.evaluate import evaluate
from tav_core.evaluation.variants import Sampling, Variant
from tav_core.inflate import transformer_blocks
from tav_core.jobs.base import open_base
from tav_core.lend import structure_of
from tav_core.source import Dials

SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
TOGETHER = ((0.4, 0.4), (0.6, 0.4), (0.6, 0.8), (0.8, 0.0), (0.8, 0.4), (0.8, 0.8), (1.0, 0.0), (1.0, 0.4), (1.0, 1.0))
"""Shares of structure and layout, with a mask."""
REWEIGHT = (2.0, 4.0)
"""Factors of the words that an edit brings in."""
GUIDANCE = (4.0, 7.5)
"""Other guidance scales that all dials together are tried with."""


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
        for share in SHARES if name == "structure" else (0.6, 1.0):
            found[f"{name} {share}"] = Sampling(dials=Dials(structure=share), borrows=structure)
    for share in SHARES:
        found[f"layout {share}"] = Sampling(dials=Dials(layout=share))
    for mask in ("true", "word"):
        found[f"mask {mask}"] = Sampling(mask=mask)
        for structure, layout in TOGETHER:
            name = f"structure {structure}, layout {layout}, mask {mask}"
            found[name] = Sampling(dials=Dials(structure, layout), mask=mask)
    for factor in REWEIGHT:
        name = f"reweight {factor:g}, structure 0.8, layout 0.4, mask true"
        found[name] = Sampling(dials=Dials(0.8, 0.4), mask="true", reweight=factor)
    for guidance in GUIDANCE:
        for layout in (0.0, 0.4):
            dials = Dials(0.8, layout)
            name = f"guidance {guidance:g}, structure 0.8, layout {layout}"
            found[name] = Sampling(guidance_scale=guidance, dials=dials)
            for mask in ("true", "word"):
                found[f"{name}, mask {mask}"] = Sampling(guidance_scale=guidance, dials=dials, mask=mask)
    return found


def main() -> None:
    options = parsed(choosing_parser(__doc__, "keeping"))
    checkpoint = open_base(miniature_path(), device=torch.device("cpu")).checkpoint
    resnets = [n.removesuffix(".conv2") for n, _ in checkpoint.unet.named_modules() if n.endswith(".conv2")]
    transformers = list(transformer_blocks(checkpoint.unet))
    default = structure_of(checkpoint.unet)
    settings = settings_of(default, resnets, transformers)
    chosen = {name: Variant(name, sampling=settings[name]) for name in chosen_of(options, settings)}
    table = Table(options)
    for outcome in evaluate(checkpoint, chosen_clips(options), chosen, SETTINGS, work=options.work):
        table.add(outcome.variant, outcome)
    table.show()


if __name__ == "__main__":
    main()
