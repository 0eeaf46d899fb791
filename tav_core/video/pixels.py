"""Frames as floats, which networks compute with, and as the bytes that codecs, images and CLIP take."""

import numpy as np
import torch
from torch import Tensor


def to_uint8(frames: Tensor) -> np.ndarray:
    """Frames of any shape and device as uint8 in 0..255: float in 0..1, clipped and rounded to the nearest value, or
    uint8, as they are."""
    if frames.dtype == torch.uint8:
        return frames.cpu().numpy()
    return (frames.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()


def to_float(frames: Tensor) -> Tensor:
    """Frames of any shape and device as float in 0..1: uint8 in 0..255 divided by 255, or float, as they are."""
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames
