"""The figures of one variant on one clip: of each edit against its ideal, and of the clip's reconstruction."""

from collections.abc import Sequence

from torch import Tensor

from ..metrics import peak_signal_to_noise, structural_similarity
from ..world.judge import Judge

Figures = dict[str, dict[str, float]]
"""By the edit's kind; under "" what concerns the clip as a whole."""


def figures(judges: Sequence[Judge], source: Tensor, edits: Sequence[Tensor], reconstruction: Tensor | None) -> Figures:
    """source, each of the edits, reconstruction: (f, 128, 128, 3) in 0..1. judges: one for each edit."""
    result = {judge.edit.kind: judge.figures(frames) for judge, frames in zip(judges, edits, strict=True)}
    if reconstruction is not None:
        result[""] = {
            "reconstruction_psnr": peak_signal_to_noise(reconstruction, source),
            "reconstruction_ssim": structural_similarity(reconstruction, source),
        }
    return result
