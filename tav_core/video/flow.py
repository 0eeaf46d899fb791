"""Frames in between by optical flow: the field's cheap baseline, and a first guess for a network."""

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from .cuts import cut_in
from .pixels import to_float, to_uint8

LEAST = 16
"""The side in pixels below which OpenCV's DIS fails, or crashes."""
SHARPNESS = 15
"""How fast a pixel counts for less with each difference of colour, 0 to 1, at the end of its flow."""
ENOUGH = 0.05
"""The weight from which what was splatted is known; below, the frames are warped by the flow of each place."""


def interpolated_by_flow(frames: Tensor, factor: int, *, cuts: bool = True) -> Iterator[Tensor]:
    """Puts factor - 1 frames between each two: the pixels of both go along their optical flow and are averaged.

    frames: (f, h, w, 3), float in 0..1 or uint8; gives (f - 1) * factor + 1 frames (h, w, 3) in 0..1, each made when
    it is asked for. The flow is OpenCV's DIS (Kroeger et al. 2016, arXiv 1603.03590); it is taken to be even between
    two frames. Of several pixels that meet in one place, those count most that look the same at the end of their flow
    (Niklaus and Liu 2020, "Softmax Splatting", section 3.2, without their networks). Across a cut, the nearer frame
    stays; with cuts=False, nothing is taken for one.
    """
    yield to_float(frames[0]).float()
    for before, after in pairwise(frames):
        before, after = to_float(before).float(), to_float(after).float()
        if cuts and cut_in(torch.stack([before, after])):
            yield from (before if 2 * step <= factor else after for step in range(1, factor))
            yield after
            continue
        there, back = optical_flow(before, after), optical_flow(after, before)
        sources = (before, there, _sureness(before, after, there)), (after, back, _sureness(after, before, back))
        for step in range(1, factor):
            shares = step / factor, 1 - step / factor
            colours, weights = 0, 0
            for (frame, motion, sure), gone, counts in zip(sources, shares, reversed(shares), strict=True):
                colour, weight = splatted(frame.numpy(), motion * gone, sure * counts)
                colours, weights = colours + colour, weights + weight
            warped = _warped(before, there * shares[0]).lerp(_warped(after, back * shares[1]), shares[0])
            known = np.clip(weights / ENOUGH, 0, 1)[..., None]
            image = torch.from_numpy(colours / np.maximum(weights, 1e-6)[..., None])
            yield warped.lerp(image, torch.from_numpy(known)).clamp(0, 1)
        yield after


def optical_flow(first: Tensor, second: Tensor) -> np.ndarray:
    """Where the first frame's pixels, (h, w, 3) in 0..1, are in the second: (h, w, 2), x and y in pixels."""
    height, width, _ = first.shape
    below, right = max(0, LEAST - height), max(0, LEAST - width)
    greys = [cv2.cvtColor(to_uint8(frame), cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    greys = [cv2.copyMakeBorder(grey, 0, below, 0, right, cv2.BORDER_REPLICATE) for grey in greys]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*greys, None)
    return np.ascontiguousarray(flow[:height, :width])


def _sureness(first: Tensor, second: Tensor, motion: np.ndarray) -> np.ndarray:
    """How sure each pixel's motion from the first frame to the second is, (h, w) in 0..1: 1 if it keeps its colour."""
    where = pixel_grid(*motion.shape[:2]) + motion
    seen = cv2.remap(second.numpy(), where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.exp(-SHARPNESS * np.abs(first.numpy() - seen).mean(axis=-1)).clip(1e-3)


def _warped(frame: Tensor, motion: np.ndarray) -> Tensor:
    from_where = pixel_grid(*motion.shape[:2]) - motion
    return torch.from_numpy(
        cv2.remap(frame.numpy(), from_where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )


def splatted(image: np.ndarray, motion: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weighted sums of what comes to each pixel (h, w, c) and of the weights (h, w), if each pixel of an image goes
    along its motion (h, w, 2), x and y in pixels, and is shared out between the four that it falls on."""
    height, width, channels = image.shape
    target = pixel_grid(height, width) + motion
    corner, sums = np.floor(target).astype(int), np.zeros((channels + 1, height * width), np.float32)
    weighed = np.concatenate([image * weights[..., None], weights[..., None]], axis=-1)
    for offset in ((0, 0), (0, 1), (1, 0), (1, 1)):
        place = corner + offset
        share = (1 - np.abs(target - place)).prod(axis=-1)
        inside = ((place >= 0) & (place < (width, height))).all(axis=-1)
        number, values = place[inside] @ (1, width), weighed[inside] * share[inside][:, None]
        for channel in range(channels + 1):
            sums[channel] += np.bincount(number, values[:, channel], minlength=height * width)
    sums = np.moveaxis(sums.reshape(channels + 1, height, width), 0, -1)
    return sums[..., :-1], sums[..., -1]


def pixel_grid(height: int, width: int) -> np.ndarray:
    """Where each pixel is, (h, w, 2) as x, y."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
