"""Holds what a variant made of a clip against what is known of the drawn world."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..demo.readers import read_picture, share_right
from ..demo.world import RADII, RIM, SIZE, Scene
from ..metrics import (
    centre_error,
    constancy,
    peak_signal_to_noise,
    spread,
    structural_similarity,
    trajectory_correlation,
    warp_error,
)
from ..video.pixels import to_uint8
from .protocol import CHANGES, FACTS, WorldClip, WorldEdit

# In picture widths: the tips of the largest star, their rim, and the VAE's soft edges.
REACH = 1.56 * RADII[1] + (RIM + 3) / SIZE


def figures(
    clip: WorldClip, source: Tensor, edits: Sequence[Tensor], reconstruction: Tensor | None
) -> dict[str, float]:
    """The figures of one variant on one clip, each a mean over the edits that it can be told of.

    source, each of the edits, reconstruction: (f, 128, 128, 3) in 0..1. Without a reconstruction its figures are left
    out, as is `background_psnr` where no edit keeps the background.
    """
    scenes = clip.scenes(len(source))
    each = [edit_figures(edit, frames, scenes, source) for edit, frames in zip(clip.edits, edits, strict=True)]
    names = dict.fromkeys(name for of_edit in each for name in of_edit)
    means = {name: float(np.mean([of_edit[name] for of_edit in each if name in of_edit])) for name in names}
    if reconstruction is not None:
        means["reconstruction_psnr"] = peak_signal_to_noise(reconstruction, source)
        means["reconstruction_ssim"] = structural_similarity(reconstruction, source)
    return means


def edit_figures(edit: WorldEdit, frames: Tensor, scenes: Sequence[Scene], source: Tensor) -> dict[str, float]:
    """The figures of one edit (f, 128, 128, 3) of a clip that shows `scenes`."""
    readings = [read_picture(picture) for picture in to_uint8(frames)]
    path, known = [reading.centre for reading in readings], [scene.centre for scene in scenes]
    changed = CHANGES[edit.kind]
    steady = {
        f"{fact}_constancy": constancy([getattr(r, fact) for r in readings]) for fact in ("ground", "colour", "shape")
    }
    asked = {fact: getattr(edit.scene, fact) for fact in FACTS}
    right = share_right(readings, {fact: asked[fact] for fact in changed})
    result = {
        "attribute_right": right,
        f"attribute_right_{edit.kind}": right,
        "rest_kept": share_right(readings, {fact: value for fact, value in asked.items() if fact not in changed}),
        "trajectory_correlation": trajectory_correlation(path, known),
        "centre_error": centre_error(path, known),
        "constancy": float(np.mean(list(steady.values()))),
        **steady,
        "size_spread": spread([reading.size for reading in readings]),
        "warp_error": warp_error(frames),
    }
    if not {"ground", "style"} & set(changed):
        result["background_psnr"] = peak_signal_to_noise(frames, source, _background(scenes, path))
    return result


def _background(scenes: Sequence[Scene], path: Sequence[tuple[float, float] | None]) -> Tensor:
    """The pixels (f, 128, 128) that neither the clip's object nor the edit's can cover."""
    rows, columns = (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE
    masks = []
    for scene, centre in zip(scenes, path, strict=True):
        distances = [np.hypot(columns - x, rows - y) for x, y in (scene.centre, centre or scene.centre)]
        masks.append(np.minimum(*distances) > REACH)
    return torch.from_numpy(np.stack(masks))
