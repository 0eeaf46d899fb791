"""Recognizes what the original Tune-A-Video saved, and extracts the 2-D network inside.

Its results hold a whole network under Stable Diffusion's own names, with tuned query projections and, in every
transformer block, temporal attention (`attn_temp`) after a norm that was never trained (`norm_temp`).
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..errors import TavError
from ..families import family_of_config
from .configs import read_config

NETWORK, MIDDLE = "UNet3DConditionModel", "UNetMidBlock3DCrossAttn"
TEMPORAL = r"\.(attn|norm)_temp\."
# The clip's settings in its training configs, with their defaults.
TRAIN = {
    "video_path": None,
    "prompt": None,
    "n_sample_frames": 8,
    "width": 512,
    "height": 512,
    "sample_start_idx": 0,
    "sample_frame_rate": 1,
}


def is_original(path: str | os.PathLike) -> bool:
    """Whether a folder is a result of the original, or the unet/ of one, judging by its config."""
    try:
        return is_original_config(read_config(unet_folder(path)))
    except TavError:
        return False


def unet_folder(path: str | os.PathLike) -> Path:
    """The folder of the network: the unet/ of a pipeline's folder, or the folder itself."""
    path = Path(path).absolute()
    return path / "unet" if (path / "unet").is_dir() else path


def is_original_config(config: Mapping) -> bool:
    """Whether it is the original's. ModelScope's in diffusers has the same class name, but no mid_block_type."""
    return config.get("_class_name") == NETWORK and config.get("mid_block_type") == MIDDLE


def image_config(config: Mapping) -> dict:
    """The config of the 2-D network inside, with diffusers' class and block names."""

    def flat(value):
        if isinstance(value, list):
            return [name.replace("3D", "2D") if isinstance(name, str) else name for name in value]
        return value.replace("3D", "2D") if isinstance(value, str) else value

    names = ("_class_name", "down_block_types", "mid_block_type", "up_block_types")
    return {**config, **{name: flat(config[name]) for name in names if name in config}}


def image_tensors(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of the 2-D network inside; raises TavError if the original's temporal attention is missing."""
    check_temporal(tensors, name)
    return {key: tensor for key, tensor in tensors.items() if not re.search(TEMPORAL, key)}


def check_temporal(tensors: Mapping[str, Tensor], name: str) -> None:
    """Raises TavError for any other video network with this class name, whatever its config."""
    if not any(".attn_temp." in key for key in tensors):
        family_of_config({"_class_name": NETWORK}, name)  # raises for anything that is not 2-D
