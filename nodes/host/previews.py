"""Previews of frames in a node."""

import random

from comfy_api.latest import io, ui
from torch import Tensor


def animated(images: Tensor, fps: float, node: type[io.ComfyNode]) -> dict:
    """Saves frames (f, h, w, 3) in 0..1 as an animation in the host's temp folder, for the node to show."""
    name = f"tune_a_video_{random.randrange(16**8):08x}"
    # safe: the helper behind core's own Save Animated WebP, exported by comfy_api
    saved = ui.ImageSaveHelper.save_animated_webp(
        images, name, io.FolderType.temp, node, fps=max(1.0, fps), lossless=False, quality=80, method=0
    )
    return {"images": [saved], "animated": [True]}
