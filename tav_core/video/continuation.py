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
    """A video at times after its last frame, in which all goes on as it did: (h, w, 3) for each.

    What moves against the ground is followed back through up to FOLLOWED frames along their optical flow, as a whole,
    so that it keeps its shape, and goes on with the speed and the acceleration that fit its path best (of two or three
    frames, the speed alone). The ground goes on evenly. What is uncovered is taken from the other frames, moved along
    with the ground; where none shows it, it is painted in from around.
    """
    frames = frames.flip(0)
    flows = [_smooth(optical_flow(after, before)) for after, before in pairwise(frames)]
    pans = [_median(flow) for flow in flows]
    movers = [np.linalg.norm(flow - pan, axis=-1) > AGAINST for flow, pan in zip(flows, pans, strict=True)]
    ground = _Ground([_without(frame, mover) for frame, mover in zip(frames[:-1], movers, strict=True)], pans)
    still = (~movers[0]).astype(np.float32)
    speed, acceleration = _blurred(-np.mean(flows, axis=0), still), np.zeros_like(flows[0])
    for thing in _things(frames[0].numpy(), ground.at(0), np.logical_or(*movers[:2]) if movers[1:] else movers[0]):
        speed[thing], acceleration[thing] = _movement(thing, flows)
    in_front = np.exp(3 * np.minimum(np.linalg.norm(speed - ground.speed, axis=-1), 6.0))
    for time in times:
        yield _moved(frames[0], speed * time + acceleration * (time**2 / 2), in_front, ground.at(time))


class _Ground:
    """What the camera sees where nothing moves against it, from frames that are NaN elsewhere, the last first.

    frames: each (h, w, 3). pans: how far the ground moves from each of them to the one before it.
    """

    def __init__(self, frames: list[np.ndarray], pans: list[np.ndarray]):
        self.frames, self.grid = frames, pixel_grid(*frames[0].shape[:2])
        self.speed, self.ways = -np.mean(pans, axis=0), np.cumsum([np.zeros(2), *pans[:-1]], axis=0)

    def at(self, time: int) -> np.ndarray:
        """The median of all frames, moved to a time after the last one; NaN where none shows the ground."""
        moved = []
        for frame, way in zip(self.frames, self.ways, strict=True):
            where = (self.grid - self.speed * time + way).astype(np.float32)
            unknown = [np.nan] * 3
            moved.append(
                cv2.remap(frame, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=unknown)
            )
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of pixels that no frame shows
            return np.nanmedian(moved, axis=0)


def _things(frame: np.ndarray, ground: np.ndarray, movers: np.ndarray) -> Iterator[np.ndarray]:
    """The regions (h, w) of things that move against the ground: they, or some of their parts, are among the movers,
    and they do not look like the ground behind them, if that is known."""
    own = ~(np.abs(frame - ground).max(axis=-1) < DIFFERENT)  # true where it is unknown
    count, regions = cv2.connectedComponents((own & _grown(movers, len(frame) // 12)).astype(np.uint8))
    for number in range(1, count):
        region = regions == number
        if movers[region].mean() > 0.3:
            yield region


def _movement(thing: np.ndarray, flows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A thing's speed and acceleration, x and y in pixels a frame, from the flows of each frame to the one before."""
    depth = cv2.distanceTransform(thing.astype(np.uint8), cv2.DIST_L2, 3)
    core = depth >= depth.max() / 2  # the flow near its rim is partly the ground's
    places, ways = pixel_grid(*thing.shape)[core][:, None], [np.zeros(2, np.float32)]
    for flow in flows:
        step = cv2.remap(flow, places + ways[-1], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        ways.append(ways[-1] + _median(step))
    times = -np.arange(1, len(ways), dtype=np.float32)
    powers = np.stack([times, times**2 / 2] if len(times) > 2 else [times], axis=1)
    speed, *acceleration = np.linalg.lstsq(powers, np.stack(ways[1:]), rcond=None)[0]
    return speed, acceleration[0] if acceleration else np.zeros(2)


def _median(motion: np.ndarray) -> np.ndarray:
    return np.median(motion.reshape(-1, 2), axis=0).astype(np.float32)


def _smooth(flow: np.ndarray) -> np.ndarray:
    return np.stack([cv2.medianBlur(np.ascontiguousarray(part), 5) for part in np.moveaxis(flow, -1, 0)], axis=-1)


def _blurred(motion: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weighted mean around each pixel."""
    sums, weights = (cv2.GaussianBlur(each, (0, 0), len(weight) / 16) for each in (motion * weight[..., None], weight))
    return sums / np.maximum(weights, 1e-6)[..., None]


def _without(frame: Tensor, movers: np.ndarray) -> np.ndarray:
    return np.where(_grown(movers, 5)[..., None], np.nan, frame.numpy())


def _grown(mask: np.ndarray, size: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((size, size), np.uint8)) > 0


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
