"""What follows a video by optical flow: a first guess for a network."""

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from .flow import interpolated_by_flow, optical_flow, pixel_grid
from .pixels import to_float

FOLLOWED = 6
"""How many frames back a path is followed."""
AGAINST = 1
"""Pixels a frame from which something moves against the ground."""
DIFFERENT = 0.06
"""Difference of colour, 0 to 1, from which something is not the ground."""


def continued_by_flow(frames: Tensor, count: int, direction: str) -> Iterator[Tensor]:
    """What follows a video, what came before it, or what leads from its end back to its start: `count` frames
    (h, w, 3) in 0..1, in order of time, each made when it is asked for.

    frames: (f, h, w, 3), f at least 2, float in 0..1 or uint8. direction: "onwards", "backwards" or "loop".
    """
    near = to_float(frames_to_follow(frames, direction))
    if direction == "loop":
        yield from islice(interpolated_by_flow(near.flip(0), count + 1), 1, count + 1)
    elif direction == "backwards":
        yield from _extrapolated(near.flip(0), range(count, 0, -1))
    else:
        yield from _extrapolated(near, range(1, count + 1))


def frames_to_follow(video: Tensor, direction: str) -> Tensor:
    """The frames of a video, (f, ...), on which `continued_by_flow` depends, in their order."""
    if direction == "loop":
        return video[[0, -1]]
    return video[: FOLLOWED + 1] if direction == "backwards" else video[-FOLLOWED - 1 :]


def _extrapolated(frames: Tensor, times: Iterable[int]) -> Iterator[Tensor]:
    """A video at times after its last frame, whose pixels go on on their paths: (h, w, 3) for each.

    Each pixel is followed back through up to FOLLOWED frames along their optical flow, and goes on with the speed and
    the acceleration that fit its path best (of two or three frames, the speed alone). What moves against the ground is
    in front of it. What it uncovers is taken from the other frames, moved along with the ground; where none shows it,
    it is painted in from around.
    """
    followed = frames.flip(0)
    flows = [_smooth(optical_flow(after, before)) for after, before in pairwise(followed)]
    speed, acceleration = _movement(flows)
    pan = _median(speed), _median(acceleration)
    ground = [_without_movers(frame, flow) for frame, flow in zip(followed[:-1], flows, strict=True)]
    own = ~(np.abs(frames[-1].numpy() - _ground(ground, pan, 0)).max(axis=-1) < DIFFERENT)  # true where it is unknown
    speed, acceleration = _as_things(speed, acceleration, pan, own)
    in_front = np.exp(3 * np.minimum(np.linalg.norm(speed - pan[0], axis=-1), 6.0))
    for time in times:
        yield _moved(frames[-1], _way(speed, acceleration, time), in_front, _ground(ground, pan, time))


def _smooth(flow: np.ndarray) -> np.ndarray:
    return np.stack([cv2.medianBlur(np.ascontiguousarray(part), 5) for part in np.moveaxis(flow, -1, 0)], axis=-1)


def _movement(flows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Speed and acceleration, (h, w, 2) in pixels a frame, of the last frame's pixels, by least squares.

    flows: of each frame to the one before it, the last frame's first.
    """
    grid, ways = pixel_grid(*flows[0].shape[:2]), [np.zeros_like(flows[0])]
    for flow in flows:
        step = cv2.remap(flow, grid + ways[-1], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        ways.append(ways[-1] + step)
    times = -np.arange(1, len(ways), dtype=np.float32)
    powers = np.stack([times, times**2 / 2] if len(times) > 2 else [times], axis=1)
    fitted = np.linalg.lstsq(powers, np.stack(ways[1:]).reshape(len(times), -1), rcond=None)[0]
    speed, *acceleration = fitted.reshape(-1, *flows[0].shape)
    return speed, acceleration[0] if acceleration else np.zeros_like(speed)


def _as_things(
    speed: np.ndarray, acceleration: np.ndarray, pan: tuple[np.ndarray, np.ndarray], own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same, where each region that moves against the ground has one speed and acceleration, so that it keeps its
    shape, and the ground has those of the camera, the speed smoothly varying.

    own: (h, w), where the frame does not look like the ground behind it.
    """
    against = np.linalg.norm(speed - pan[0], axis=-1) > AGAINST
    still = (~against).astype(np.float32)
    around, weight = (cv2.GaussianBlur(each, (0, 0), len(still) / 16) for each in (speed * still[..., None], still))
    speeds, accelerations = around / np.maximum(weight, 1e-6)[..., None], np.broadcast_to(pan[1], speed.shape).copy()
    count, regions = cv2.connectedComponents((against & own).astype(np.uint8))
    for number in range(1, count):
        region = regions == number
        speeds[region], accelerations[region] = _median(speed[region]), _median(acceleration[region])
    return speeds, accelerations


def _median(motion: np.ndarray) -> np.ndarray:
    return np.median(motion.reshape(-1, 2), axis=0)


def _way(speed: np.ndarray, acceleration: np.ndarray, time: int) -> np.ndarray:
    """How far things have gone since the last frame."""
    return speed * time + acceleration * (time**2 / 2)


def _without_movers(frame: Tensor, flow: np.ndarray) -> np.ndarray:
    """A frame (h, w, 3) whose pixels that move against most others, and those around them, are NaN."""
    against = np.linalg.norm(flow - _median(flow), axis=-1) > AGAINST
    against = cv2.dilate(against.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return np.where(against[..., None], np.nan, frame.numpy())


def _ground(frames: list[np.ndarray], pan: tuple[np.ndarray, np.ndarray], time: int) -> np.ndarray:
    """The median of frames, moved as the ground does until a time after the last one, which is the first of them;
    (h, w, 3), NaN where none shows it."""
    grid, moved = pixel_grid(*frames[0].shape[:2]), []
    for ago, frame in enumerate(frames):
        where = (grid - _way(*pan, time) + _way(*pan, -ago)).astype(np.float32)
        moved.append(
            cv2.remap(frame, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=[np.nan] * 3)
        )
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of pixels that no frame shows
        return np.nanmedian(moved, axis=0)


def _moved(frame: Tensor, motion: np.ndarray, in_front: np.ndarray, ground: np.ndarray) -> Tensor:
    """A frame whose pixels have gone where the motion takes them; of several in one place, those in front count, and
    where there is none, the ground."""
    height, width = motion.shape[:2]
    target, weighed = pixel_grid(height, width) + motion, np.zeros((height * width, 4))
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
    image = np.where((weight < 0.3)[..., None], ground, image)
    unknown = np.isnan(image).any(axis=-1)
    image = (255 * np.nan_to_num(image).clip(0, 1)).round().astype(np.uint8)
    painted = cv2.inpaint(image, unknown.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    return torch.from_numpy(painted).float() / 255
