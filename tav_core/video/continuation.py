"""What follows a video by optical flow: a first guess for a network."""

import math
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import TavError
from .cuts import cut_in
from .flow import interpolated_by_flow, optical_flow, pixel_grid
from .pixels import to_float

FOLLOWED = 6
"""How many frames back a path is followed."""
AGAINST = 1 / 128
"""The share of the frame's side, a frame, from which something moves against the ground."""
DIFFERENT = 0.06
"""Difference of colour, 0 to 1, from which something is not the ground."""
FADES = 4
"""How many frames what bends or zooms goes on, more and more slowly; what is rigid goes on as it did."""


def continued_by_flow(frames: Tensor, count: int, direction: str) -> Iterator[Tensor]:
    """What follows a video, what came before it, or what leads from its end back to its start: `count` frames
    (h, w, 3) in 0..1, in order of time, each made when it is asked for.

    frames: (f, h, w, 3), f at least 2, float in 0..1 or uint8. direction: "onwards", "backwards" or "loop".
    """
    if len(frames) < 2:
        raise TavError(f"What follows is seen from at least 2 frames, got {len(frames)}.")
    near = to_float(frames_to_follow(frames, direction)).float()
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

    What moves against the ground, and mostly as one, is followed back through up to FOLLOWED frames along its optical
    flow, and goes on with the speed and the acceleration that fit its path best (of two or three frames, the speed
    alone). All else goes on evenly with the camera, and what it does besides (zoom, limbs, waves) ends after some
    frames, as nobody knows how long it lasts. What is uncovered is taken from the other frames, moved along with the
    ground; where none shows it, it is painted in from around. After a cut, only its own shot counts; of a single frame,
    nothing moves.
    """
    frames = frames[cut_in(frames) or 0 :].flip(0)
    if len(frames) < 2:
        yield from (frames[0] for _ in times)
        return
    size = min(frames.shape[1:3])
    flows = [_smooth(optical_flow(after, before)) for after, before in pairwise(frames)]
    pans = [_median(flow) for flow in flows]
    movers = [np.linalg.norm(flow - pan, axis=-1) > size * AGAINST for flow, pan in zip(flows, pans, strict=True)]
    movers = [mover & (mover.mean() < 0.5) for mover in movers]  # more than half is no thing, but a camera that zooms
    ground = _Ground([_without(frame, mover) for frame, mover in zip(frames[:-1], movers, strict=True)], pans)
    moving = np.logical_or(*movers[:2]) if movers[1:] else movers[0]
    things = list(_things(frames[0].numpy(), ground.at(0), moving, flows[0]))
    rest = np.logical_and.reduce([~thing for thing in things]) if things else np.ones_like(moving)
    besides = _blurred(-np.mean(flows[:2], axis=0), rest.astype(np.float32)) - ground.speed
    speed, acceleration = np.broadcast_to(ground.speed, besides.shape).copy(), np.zeros_like(besides)
    for thing in things:
        ways = _followed(thing, flows)
        speed[thing], acceleration[thing], besides[thing] = *_movement(ways), 0
        ground.hide(thing, ways)
    in_front = np.exp(3 * np.minimum(np.linalg.norm(speed - ground.speed, axis=-1), 6.0))
    for time in times:
        motion = speed * time + acceleration * (time**2 / 2) + besides * FADES * (1 - math.exp(-time / FADES))
        yield _moved(frames[0], motion, in_front, ground.at(time))


class _Ground:
    """What the camera sees where nothing moves against it, from frames that are NaN elsewhere, the last first.

    frames: each (h, w, 3). pans: how far the ground moves from each of them to the one before it.
    """

    def __init__(self, frames: list[np.ndarray], pans: list[np.ndarray]):
        self.frames, self.grid = frames, pixel_grid(*frames[0].shape[:2])
        self.speed, self.ways = -np.mean(pans, axis=0), np.cumsum([np.zeros(2), *pans[:-1]], axis=0)

    def hide(self, thing: np.ndarray, ways: list[np.ndarray]) -> None:
        """Takes a thing away from all frames, at which it is so far from where it is in the last one."""
        for frame, way in zip(self.frames, ways, strict=False):
            shift = np.float32([[1, 0, way[0]], [0, 1, way[1]]])
            there = cv2.warpAffine(thing.astype(np.uint8), shift, thing.shape[::-1])
            frame[_grown(there, min(thing.shape) // 25)] = np.nan

    def at(self, time: int) -> np.ndarray:
        """The median of all frames, moved to a time after the last one; NaN where none shows the ground."""
        moved = []
        for frame, way in zip(self.frames, self.ways, strict=True):
            where = (self.grid - self.speed * time + way).astype(np.float32)
            unknown = [np.nan] * 3
            moved.append(
                cv2.remap(frame, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=unknown)
            )
        return _median_of_known(np.stack(moved))


def _median_of_known(values: np.ndarray) -> np.ndarray:
    """The median over the first axis of what is not NaN; NaN where all is. np.nanmedian takes ten times as long."""
    ordered, count = np.sort(values, axis=0), (~np.isnan(values)).sum(axis=0, keepdims=True)
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(values) - 1)
    middle = [np.take_along_axis(ordered, place, axis=0)[0] for place in (low, high)]
    return (middle[0] + middle[1]) / 2


def _things(frame: np.ndarray, ground: np.ndarray, movers: np.ndarray, flow: np.ndarray) -> Iterator[np.ndarray]:
    """The regions (h, w) of things that move against the ground, and mostly as one: they, or some of their parts, are
    among the movers, and they do not look like the ground behind them, if that is known."""
    size = min(movers.shape)
    own = ~(np.abs(frame - ground).max(axis=-1) < DIFFERENT)  # true where it is unknown
    count, regions = cv2.connectedComponents((own & _grown(movers, size // 12)).astype(np.uint8))
    areas = np.bincount(regions.ravel(), minlength=count)
    for number in range(1, count):
        if areas[number] < (size / 32) ** 2:
            continue
        region = regions == number
        moves = flow[_core(region)]
        speed = np.linalg.norm(_median(moves))
        as_one = np.linalg.norm(moves - _median(moves), axis=-1) < max(size * AGAINST, speed / 4)
        if movers[region].mean() > 0.3 and as_one.mean() > 0.5:
            yield region


def _core(thing: np.ndarray) -> np.ndarray:
    """The inner part of a region; the flow near its rim is partly the ground's."""
    depth = cv2.distanceTransform(thing.astype(np.uint8), cv2.DIST_L2, 3)
    return depth >= depth.max() / 2


def _followed(thing: np.ndarray, flows: list[np.ndarray]) -> list[np.ndarray]:
    """How far, x and y in pixels, a thing is in each frame from where it is in the last one.

    flows: of each frame to the one before, the last frame's first.
    """
    places, ways = pixel_grid(*thing.shape)[_core(thing)], [np.zeros(2, np.float32)]
    places = places[:: len(places) // 4096 + 1, None]  # OpenCV takes at most 32767, and so many do
    for flow in flows:
        step = cv2.remap(flow, places + ways[-1], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        ways.append(ways[-1] + _median(step))
    return ways


def _movement(ways: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The speed and acceleration, x and y in pixels a frame, that fit where a thing was."""
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
    return np.where(_grown(movers, min(movers.shape) // 25)[..., None], np.nan, frame.numpy())


def _grown(mask: np.ndarray, size: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((size | 1, size | 1), np.uint8)) > 0


def _moved(frame: Tensor, motion: np.ndarray, in_front: np.ndarray, ground: np.ndarray) -> Tensor:
    """A frame whose pixels have gone where the motion takes them; of several in one place, those in front count, and
    where there is none, the ground."""
    height, width = motion.shape[:2]
    target, weighed = pixel_grid(height, width) + motion, np.zeros((height * width, 5))
    corner = np.floor(target).astype(int)
    colours = np.concatenate([frame.numpy(), np.ones((height, width, 1), np.float32)], axis=-1)
    for offset in ((0, 0), (0, 1), (1, 0), (1, 1)):
        place = corner + offset
        share = (1 - np.abs(target - place)).prod(axis=-1)
        inside = ((place >= 0) & (place < (width, height))).all(axis=-1)
        number = place[inside] @ (1, width)
        for channel in range(5):
            values = share if channel == 4 else colours[..., channel] * share * in_front
            weighed[:, channel] += np.bincount(number, values[inside], minlength=height * width)
    covered = weighed[:, 4].reshape(height, width) >= 0.3
    image = (weighed[:, :3] / np.maximum(weighed[:, 3:4], 1e-8)).reshape(height, width, 3)
    image = np.where(covered[..., None], image, ground)
    unknown = np.isnan(image).any(axis=-1)
    image = (255 * np.nan_to_num(image).clip(0, 1)).round().astype(np.uint8)
    painted = cv2.inpaint(image, unknown.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    return torch.from_numpy(painted).float() / 255
