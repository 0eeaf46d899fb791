"""Float frames as the bytes that codecs, images and CLIP take."""

import numpy as np
from torch import Tensor


def to_uint8(frames: Tensor) -> np.ndarray:
    """Frames of any shape and device, float in 0..1, as uint8 in 0..255, clipped and rounded to the nearest value."""
    return (frames.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
