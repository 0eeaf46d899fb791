"""Previews of frames in a node."""

import random
from pathlib import Path

import folder_paths
from torch import Tensor

from ...tav_core.video.write import write_video


def as_video(images: Tensor, fps: float) -> dict:
    """Saves frames (f, h, w, 3) in 0..1 as an mp4 in the host's temp folder, for the node to play.

    The front end shows a node's preview as a video if the node can upload videos, and an animated image then stays
    black.
    """
    name, folder = f"tune_a_video_{random.randrange(16**8):08x}.mp4", Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / name, images, min(max(fps, 0.1), 60.0))
    return {"images": [{"filename": name, "subfolder": "", "type": "temp"}], "animated": [True]}
