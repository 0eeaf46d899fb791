"""Frames in between by optical flow: the field's cheap baseline, and a first guess for a network."""

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from .pixels import to_float, to_uint8

LEAST = 16
"""The side in pixels below which OpenCV's DIS fails, or crashes."""


def interpolated_by_flow(frames: Tensor, factor: int) -> Iterator[Tensor]:
    """Puts factor - 1 frames between each two: both warped along their optical flow and averaged by distance.

    frames: (f, h, w, 3), float in 0..1 or uint8; gives (f - 1) * factor + 1 frames (h, w, 3) in 0..1, each made when
    it is asked for. The flow is OpenCV's DIS (Kroeger et al. 2016, arXiv 1603.03590); it is taken to be even between
    two frames.
    """
    yield to_float(frames[0]).float()
    for before, after in pairwise(frames):
        before, after = to_float(before).float(), to_float(after).float()
        there, back = optical_flow(before, after), optical_flow(after, before)
        for step in range(1, factor):
            share = step / factor
            yield _warped(before, there * share).lerp(_warped(after, back * (1 - share)), share)
        yield after


def optical_flow(first: Tensor, second: Tensor) -> np.ndarray:
    """Where the first frame's pixels, (h, w, 3) in 0..1, are in the second: (h, w, 2), x and y in pixels."""
    height, width, _ = first.shape
    below, right = max(0, LEAST - height), max(0, LEAST - width)
    greys = [cv2.cvtColor(to_uint8(frame), cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    greys = [cv2.copyMakeBorder(grey, 0, below, 0, right, cv2.BORDER_REPLICATE) for grey in greys]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*greys, None)
    return np.ascontiguousarray(flow[:height, :width])


def _warped(frame: Tensor, motion: np.ndarray) -> Tensor:
    from_where = pixel_grid(*motion.shape[:2]) - motion
    return torch.from_numpy(
        cv2.remap(frame.numpy(), from_where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )


def pixel_grid(height: int, width: int) -> np.ndarray:
    """Where each pixel is, (h, w, 2) as x, y."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
