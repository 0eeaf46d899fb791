"""Frames in between by optical flow: the field's cheap baseline, and a first guess for a network."""

from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from .pixels import to_uint8


def interpolated_by_flow(frames: Tensor, factor: int) -> Tensor:
    """Puts factor - 1 frames between each two: both warped along their optical flow and averaged by distance.

    frames: (f, h, w, 3) in 0..1; returns ((f - 1) * factor + 1, h, w, 3). The flow is OpenCV's DIS (Kroeger et al.
    2016, arXiv 1603.03590); it is taken to be even between two frames.
    """
    video = [frames[0]]
    for before, after in pairwise(frames):
        there, back = _flow(before, after), _flow(after, before)
        for step in range(1, factor):
            share = step / factor
            warped = _warped(before, there * share), _warped(after, back * (1 - share))
            video.append(warped[0].lerp(warped[1], share))
        video.append(after)
    return torch.stack(video)


def _flow(first: Tensor, second: Tensor) -> np.ndarray:
    greys = [cv2.cvtColor(np.asarray(to_uint8(frame[None]))[0], cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*greys, None)


def _warped(frame: Tensor, motion: np.ndarray) -> Tensor:
    height, width = motion.shape[:2]
    from_where = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32) - motion
    return torch.from_numpy(
        cv2.remap(frame.numpy(), from_where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )
