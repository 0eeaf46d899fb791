"""The layers of a video: the ground, and the things that move before it (Wang and Adelson 1994, "Representing moving
images with layers")."""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from torch import Tensor

from .flow import optical_flow, pixel_grid
from .matching import DIFFERENT, apart, grown, pan
from .things import Thing, filled, shifted, things_in

AGAINST = 1 / 128
"""The share of the frame's side, a frame, from which something moves against the ground."""
EXPLAINED = 0.0075
"""How much better, in colour from 0 to 1, the flow must explain what moves than the ground's movement does."""


class Layers:
    """The layers of a video's last frame.

    frames: (f, h, w, 3) in 0..1, f at least 2, the last one first. flows: from each of them to the next, (h, w, 2).
    things: what moves against the ground in the last frame. misled: of the last two frames, where their flow is not the
    ground's movement although the ground is seen there, (h, w) each.
    """

    ground: "Ground"
    things: list[Thing]
    misled: list[np.ndarray]

    def __init__(self, frames: Tensor):
        images = list(frames.numpy())
        self.flows = [_smooth(optical_flow(after, before)) for after, before in pairwise(frames)]
        pans = [pan(after, before) for after, before in pairwise(images)]
        movers = [_movers(*each) for each in zip(images[:-1], images[1:], self.flows, pans, strict=True)]
        moving = np.logical_or(*movers[:2]) if movers[1:] else movers[0]
        self.ground = Ground(images, movers, pans)
        differs = [self.ground.differs(image, ago) for ago, image in enumerate(images)]
        things = list(things_in(images, self.flows, self.ground.ways, differs, moving))
        self.things = []
        for thing in things:
            self.ground.hide(thing.rigid, thing.ways)
        differs = self.ground.differs(images[0], 0)
        for thing in things:
            self.things.append(thing.where(differs))
            self.ground.hide(self.things[-1].region, thing.ways)
        self.misled = [self._misled(images[ago], ago) for ago in range(min(2, len(self.flows)))]

    def _misled(self, image: np.ndarray, ago: int) -> np.ndarray:
        """Where the flow is far from the ground's movement, which explains what is seen there; (h, w)."""
        against = self.flows[ago] - (self.ground.ways[ago + 1] - self.ground.ways[ago])
        far = np.linalg.norm(against, axis=-1) > 2 * AGAINST * min(image.shape[:2])
        return far & ~self.ground.differs(image, ago)


def _movers(image: np.ndarray, before: np.ndarray, flow: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Where things move against the ground, (h, w): the flow is another than the ground's, and explains more. None, if
    that is more than half of the frame, and thus no thing, but a camera that zooms.

    flow: (h, w, 2), of the image to the one before it; ground: x and y, how far the ground moves between them.
    """
    places, side, unlike = pixel_grid(*flow.shape[:2]), min(flow.shape[:2]), []
    for motion in (flow, ground):
        where = (places + motion).astype(np.float32)
        seen = cv2.remap(before, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        differences = np.minimum(apart(image, seen), 4 * DIFFERENT)
        unlike.append(cv2.blur(differences, (side // 16 | 1, side // 16 | 1)))
    explained = unlike[0] < unlike[1] - EXPLAINED
    moves = np.linalg.norm(flow - ground, axis=-1) > side * AGAINST
    movers = filled(moves & explained)
    return movers & (movers.mean() < 0.5)


class Ground:
    """What the camera sees where nothing moves against it.

    images: of the video, (h, w, 3), the last one first. movers: where something moves against the ground in each but
    the earliest, (h, w). pans: how far the ground moves from each image to the next. ways: how far it is in each from
    where it is in the last one.
    """

    def __init__(self, images: Sequence[np.ndarray], movers: Sequence[np.ndarray], pans: Sequence[np.ndarray]):
        size = min(images[0].shape[:2]) // 25
        self.grid = pixel_grid(*images[0].shape[:2])
        self.frames = [
            np.where(grown(mover, size)[..., None], np.nan, image) for image, mover in zip(images, movers, strict=False)
        ]
        self.unmasked, self.hidden = [image.copy() for image in images[:-1]], False
        self.speed, self.ways = -np.mean(pans, axis=0), np.cumsum([np.zeros(2), *pans], axis=0)

    def hide(self, thing: np.ndarray, ways: Sequence[np.ndarray]) -> None:
        """Takes a thing (h, w) away from all frames, in each of which it has moved so far, x and y in pixels. From now
        on, what moves counts as ground where no frame shows another."""
        self.hidden = True
        for frame, other, way in zip(self.frames, self.unmasked, ways, strict=False):
            there = grown(shifted(thing, way), min(thing.shape) // 25)
            frame[there] = other[there] = np.nan

    def at(self, time: int) -> np.ndarray:
        """What the camera sees of the ground so many frames after the last one, if it goes on evenly: (h, w, 3); NaN
        where no frame shows it."""
        return self._moved(self.speed * time)

    def differs(self, image: np.ndarray, ago: int) -> np.ndarray:
        """Where the image so many frames ago does not look like its ground, or no image shows it; (h, w)."""
        return ~(apart(image, self._moved(self.ways[ago])) < DIFFERENT)

    def _moved(self, by: np.ndarray) -> np.ndarray:
        """The median of all frames, moved so that the ground lies so far from its place in the last one; x and y in
        pixels."""
        ground = self._median(self.frames, by)
        if self.hidden and np.isnan(ground).any():
            ground = np.where(np.isnan(ground), self._median(self.unmasked, by), ground)
        return ground

    def _median(self, frames: Sequence[np.ndarray], by: np.ndarray) -> np.ndarray:
        moved = []
        for frame, way in zip(frames, self.ways, strict=False):
            where = (self.grid - by + way).astype(np.float32)
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


def _smooth(flow: np.ndarray) -> np.ndarray:
    return np.stack([cv2.medianBlur(np.ascontiguousarray(part), 5) for part in np.moveaxis(flow, -1, 0)], axis=-1)
