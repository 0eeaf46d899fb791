"""Frames in between and onwards by optical flow: the field's cheap baseline, and a first guess for a network."""

from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from .pixels import to_float, to_uint8

FOLLOWED = 6
"""How many frames back a path is followed."""


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


def continued_by_flow(frames: Tensor, count: int, direction: str) -> Tensor:
    """What follows a video, what came before it, or what leads from its end back to its start: (count, h, w, 3) in
    0..1, in order of time.

    frames: (f, h, w, 3), f at least 2, float in 0..1 or uint8. direction: "onwards", "backwards" or "loop".
    """
    near = to_float(frames_to_follow(frames, direction))
    if direction == "loop":
        return interpolated_by_flow(near.flip(0), count + 1)[1:-1]
    return extrapolated_by_flow(near, count, backwards=direction == "backwards")


def frames_to_follow(video: Tensor, direction: str) -> Tensor:
    """The frames of a video, (f, ...), on which `continued_by_flow` depends, in their order."""
    if direction == "loop":
        return video[[0, -1]]
    return video[: FOLLOWED + 1] if direction == "backwards" else video[-FOLLOWED - 1 :]


def extrapolated_by_flow(frames: Tensor, count: int, *, backwards: bool = False) -> Tensor:
    """Continues a video by moving the last frame's pixels onwards on their paths: (count, h, w, 3), in order of time.

    Each pixel is followed back through up to FOLLOWED frames along their optical flow, and goes on with the speed and
    the acceleration that fit its path best (of two or three frames, the speed alone). What moves against the rest hides
    it; what it uncovers is painted in from around it.

    frames: (f, h, w, 3) in 0..1, f at least 2. backwards: what came before, instead of what follows.
    """
    if backwards:
        return extrapolated_by_flow(frames.flip(0), count).flip(0)
    speed, acceleration = _movement(frames)
    behind = np.median(speed.reshape(-1, 2), axis=0)
    in_front = np.exp(3 * np.minimum(np.linalg.norm(speed - behind, axis=-1), 6.0))
    times = range(1, count + 1)
    return torch.stack([_moved(frames[-1], speed * time + acceleration * (time**2 / 2), in_front) for time in times])


def _movement(frames: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Speed and acceleration, (h, w, 2) in pixels a frame, of the last frame's pixels, by least squares."""
    *_, height, width, _ = frames.shape
    grid, way, ways = _grid(height, width), np.zeros((height, width, 2), np.float32), []
    for after, before in list(pairwise(frames.flip(0)))[:FOLLOWED]:
        flow = _flow(after, before)
        smooth = np.stack([cv2.medianBlur(np.ascontiguousarray(part), 5) for part in np.moveaxis(flow, -1, 0)], -1)
        where = grid + way
        way = way + cv2.remap(smooth, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        ways.append(way)
    times = -np.arange(1, len(ways) + 1, dtype=np.float32)
    powers = np.stack([times, times**2 / 2] if len(ways) > 2 else [times], axis=1)
    fitted = np.linalg.lstsq(powers, np.stack(ways).reshape(len(ways), -1), rcond=None)[0].reshape(-1, *way.shape)
    return fitted[0], fitted[1] if len(fitted) > 1 else np.zeros_like(way)


def _moved(frame: Tensor, motion: np.ndarray, in_front: np.ndarray) -> Tensor:
    """A frame whose pixels have gone where the motion takes them; of several in one place, those in front count."""
    height, width = motion.shape[:2]
    target, weighed = _grid(height, width) + motion, np.zeros((height * width, 4))
    corner = np.floor(target).astype(int)
    colours = np.concatenate([frame.numpy(), np.ones((height, width, 1), np.float32)], axis=-1)
    for offset in ((0, 0), (0, 1), (1, 0), (1, 1)):
        place = corner + offset
        share = (1 - np.abs(target - place)).prod(axis=-1) * in_front
        inside = ((place >= 0) & (place < (width, height))).all(axis=-1)
        number = place[inside] @ (1, width)
        for channel in range(4):
            values = (colours[..., channel] * share)[inside]
            weighed[:, channel] += np.bincount(number, values, minlength=height * width)
    weight = weighed[:, 3].reshape(height, width)
    image = (weighed[:, :3] / np.maximum(weighed[:, 3:], 1e-8)).reshape(height, width, 3)
    uncovered = (weight < 0.3).astype(np.uint8)
    painted = cv2.inpaint((255 * image.clip(0, 1)).round().astype(np.uint8), uncovered, 3, cv2.INPAINT_TELEA)
    return torch.from_numpy(painted).float() / 255


def _grid(height: int, width: int) -> np.ndarray:
    """Where each pixel is, (h, w, 2) as x, y."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def _flow(first: Tensor, second: Tensor) -> np.ndarray:
    greys = [cv2.cvtColor(np.asarray(to_uint8(frame[None]))[0], cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*greys, None)


def _warped(frame: Tensor, motion: np.ndarray) -> Tensor:
    from_where = _grid(*motion.shape[:2]) - motion
    return torch.from_numpy(
        cv2.remap(frame.numpy(), from_where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )
