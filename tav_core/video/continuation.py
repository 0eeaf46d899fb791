"""What follows a video by optical flow: a first guess for a network."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import TavError
from .cuts import cut_in
from .flow import interpolated_by_flow, optical_flow, pixel_grid
from .matching import DIFFERENT, grown, pan
from .pixels import to_float
from .things import Thing, filled, shifted, things_in

FOLLOWED = 6
"""How many frames back a path is followed."""
AGAINST = 1 / 128
"""The share of the frame's side, a frame, from which something moves against the ground."""
EXPLAINED = 0.0075
"""How much better, in colour from 0 to 1, the flow must explain what moves than the ground's movement does."""
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

    What moves against the ground is followed back through up to FOLLOWED frames, and goes on as its path shows: with
    its speed, its acceleration, or on its circle. All else goes on evenly with the camera, and what it does besides
    (zoom, limbs, waves) ends after some frames, as nobody knows how long it lasts. What is uncovered is taken from the
    other frames, moved along with the ground; where none shows it, it is painted in from around. After a cut, only its
    own shot counts; of a single frame, nothing moves.
    """
    frames = frames[cut_in(frames) or 0 :].flip(0)
    if len(frames) < 2:
        yield from (frames[0] for _ in times)
        return
    flows, images = [_smooth(optical_flow(after, before)) for after, before in pairwise(frames)], list(frames.numpy())
    pans = [pan(after, before) for after, before in pairwise(images)]
    movers = [_movers(*each) for each in zip(images[:-1], images[1:], flows, pans, strict=True)]
    moving = np.logical_or(*movers[:2]) if movers[1:] else movers[0]
    ground = _Ground(images, movers, pans)
    differs = [ground.differs(image, -ago) for ago, image in enumerate(images)]
    things = list(things_in(images, flows, ground.ways, differs, moving))
    ground = _Ground(images, [_elsewhere(mover, ago, things) for ago, mover in enumerate(movers)], pans)
    for thing in things:
        ground.hide(thing.rigid, thing.ways)
    differs = ground.differs(images[0], 0)
    things, rest = [thing.where(differs) for thing in things], np.ones_like(moving)
    for thing in things:
        ground.hide(thing.region, thing.ways)
        rest &= ~thing.region
    besides = _blurred(-np.mean(flows[:2], axis=0), rest.astype(np.float32)) - ground.speed
    fast = np.zeros_like(moving, np.float32)
    for thing in things:
        besides[thing.region] = 0
        fast[thing.region] = np.linalg.norm(thing.movement.speed - ground.speed)
    in_front = np.exp(3 * np.minimum(fast, 6.0))
    for time in times:
        motion = ground.speed * time + besides * FADES * (1 - math.exp(-time / FADES))
        for thing in things:
            motion[thing.region] = thing.movement.at(time)
        yield _moved(frames[0], motion, in_front, ground.at(time))


def _movers(image: np.ndarray, before: np.ndarray, flow: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Where things move against the ground, (h, w): the flow is another than the ground's, and explains more. None, if
    that is more than half of the frame, and thus no thing, but a camera that zooms.

    flow: (h, w, 2), of the image to the one before it; ground: x and y, how far the ground moves between them.
    """
    places, side, unlike = pixel_grid(*flow.shape[:2]), min(flow.shape[:2]), []
    for motion in (flow, ground):
        where = (places + motion).astype(np.float32)
        seen = cv2.remap(before, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        differences = np.minimum(np.abs(image - seen).max(axis=-1), 4 * DIFFERENT)
        unlike.append(cv2.blur(differences, (side // 16 | 1, side // 16 | 1)))
    explained = unlike[0] < unlike[1] - EXPLAINED
    movers = filled((np.linalg.norm(flow - ground, axis=-1) > side * AGAINST) & explained)
    return movers & (movers.mean() < 0.5)


class _Ground:
    """What the camera sees where nothing moves against it, in a video that runs backwards in time.

    images: (h, w, 3). movers: where something moves against the ground in each, (h, w); without the last image. pans:
    how far the ground moves from each image to the next. ways: how far it is in each from where it is in the first.
    """

    def __init__(self, images: Sequence[np.ndarray], movers: Sequence[np.ndarray], pans: Sequence[np.ndarray]):
        size = min(images[0].shape[:2]) // 25
        self.grid = pixel_grid(*images[0].shape[:2])
        self.frames = [
            np.where(grown(mover, size)[..., None], np.nan, image) for image, mover in zip(images, movers, strict=False)
        ]
        self.speed, self.ways = -np.mean(pans, axis=0), np.cumsum([np.zeros(2), *pans], axis=0)

    def hide(self, thing: np.ndarray, ways: Sequence[np.ndarray]) -> None:
        """Takes a thing away from all frames, at which it is so far from where it is in the last one."""
        for frame, way in zip(self.frames, ways, strict=False):
            frame[grown(shifted(thing, way), min(thing.shape) // 25)] = np.nan

    def at(self, time: int) -> np.ndarray:
        """The median of all frames, moved to a time after the last one; NaN where none shows the ground."""
        moved = []
        for frame, way in zip(self.frames, self.ways, strict=False):
            where = (self.grid - self.speed * time + way).astype(np.float32)
            unknown = [np.nan] * 3
            moved.append(
                cv2.remap(frame, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=unknown)
            )
        return _median_of_known(np.stack(moved))

    def differs(self, image: np.ndarray, time: int) -> np.ndarray:
        """Where an image does not look like the ground at its time, or no image shows it; (h, w)."""
        return ~(np.abs(image - self.at(time)).max(axis=-1) < DIFFERENT)


def _elsewhere(mover: np.ndarray, ago: int, things: Sequence[Thing]) -> np.ndarray:
    """What moves in a frame so many frames ago, but not near one of the things."""
    for thing in things:
        mover = mover & ~grown(shifted(thing.region, thing.ways[ago]), min(mover.shape) // 6)
    return mover


def _median_of_known(values: np.ndarray) -> np.ndarray:
    """The median over the first axis of what is not NaN; NaN where all is. np.nanmedian takes ten times as long."""
    ordered, count = np.sort(values, axis=0), (~np.isnan(values)).sum(axis=0, keepdims=True)
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(values) - 1)
    middle = [np.take_along_axis(ordered, place, axis=0)[0] for place in (low, high)]
    return (middle[0] + middle[1]) / 2


def _smooth(flow: np.ndarray) -> np.ndarray:
    return np.stack([cv2.medianBlur(np.ascontiguousarray(part), 5) for part in np.moveaxis(flow, -1, 0)], axis=-1)


def _blurred(motion: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weighted mean around each pixel."""
    sums, weights = (cv2.GaussianBlur(each, (0, 0), len(weight) / 16) for each in (motion * weight[..., None], weight))
    return sums / np.maximum(weights, 1e-6)[..., None]


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
