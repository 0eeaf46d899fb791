"""Compares edits of a clip with the ground truth of the drawn world."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..demo.readers import read_image, share_right
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
from .protocol import ATTRIBUTES, CHANGES, WorldClip, WorldEdit

# In image widths: the tips of the largest star, their rim, and the edges that the VAE blurs.
REACH = 1.56 * RADII[1] + (RIM + 3) / SIZE


def figures(
    clip: WorldClip, source: Tensor, edits: Sequence[Tensor], reconstruction: Tensor | None
) -> dict[str, float]:
    """The figures of one variant on one clip, each averaged over the edits it applies to.

    source, each of the edits, reconstruction: (f, 128, 128, 3) in 0..1. Without a reconstruction, its figures are left
    out, as is `background_psnr` if no edit keeps the background.
    """
    scenes = clip.scenes(len(source))
    each = [edit_figures(edit, frames, scenes, source) for edit, frames in zip(clip.edits, edits, strict=True)]
    names = dict.fromkeys(name for result in each for name in result)
    means = {name: float(np.mean([result[name] for result in each if name in result])) for name in names}
    if reconstruction is not None:
        means["reconstruction_psnr"] = peak_signal_to_noise(reconstruction, source)
        means["reconstruction_ssim"] = structural_similarity(reconstruction, source)
    return means


def edit_figures(edit: WorldEdit, frames: Tensor, scenes: Sequence[Scene], source: Tensor) -> dict[str, float]:
    """The figures of one edit (f, 128, 128, 3) of a clip of these scenes."""
    readings = [read_image(frame) for frame in to_uint8(frames)]
    path, known = [reading.centre for reading in readings], [scene.centre for scene in scenes]
    changed = CHANGES[edit.kind]
    constancies = {
        f"{name}_constancy": constancy([getattr(r, name) for r in readings]) for name in ("ground", "colour", "shape")
    }
    wanted = {name: getattr(edit.scene, name) for name in ATTRIBUTES}
    right = share_right(readings, {name: wanted[name] for name in changed})
    result = {
        "attribute_right": right,
        f"attribute_right_{edit.kind}": right,
        "rest_kept": share_right(readings, {name: value for name, value in wanted.items() if name not in changed}),
        "trajectory_correlation": trajectory_correlation(path, known),
        "centre_error": centre_error(path, known),
        "constancy": float(np.mean(list(constancies.values()))),
        **constancies,
        "size_spread": spread([reading.size for reading in readings]),
        "warp_error": warp_error(frames),
    }
    if not {"ground", "style"} & set(changed):
        result["background_psnr"] = peak_signal_to_noise(frames, source, _background(scenes, path))
    return result


def _background(scenes: Sequence[Scene], path: Sequence[tuple[float, float] | None]) -> Tensor:
    """A mask (f, 128, 128) of the pixels that neither the clip's object nor the edit's can cover."""
    rows, columns = (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE
    masks = []
    for scene, centre in zip(scenes, path, strict=True):
        distances = [np.hypot(columns - x, rows - y) for x, y in (scene.centre, centre or scene.centre)]
        masks.append(np.minimum(*distances) > REACH)
    return torch.from_numpy(np.stack(masks))
