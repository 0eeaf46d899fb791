"""What follows a video by optical flow: a first guess for a network."""

import math
from collections.abc import Iterable, Iterator
from itertools import islice

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import TavError
from .cuts import cut_in
from .flow import interpolated_by_flow, splatted
from .layers import Layers
from .matching import grown
from .pixels import to_float
from .things import shifted

FOLLOWED = 6
"""How many frames back a path is followed."""
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
        yield from islice(interpolated_by_flow(near.flip(0), count + 1, cuts=False), 1, count + 1)
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
    layers = Layers(frames)
    ground, things = layers.ground, layers.things
    besides = _besides(layers)
    fast = np.zeros(frames.shape[1:3], np.float32)
    for thing in things:
        besides[thing.region] = 0
        fast[thing.region] = np.linalg.norm(thing.movement.speed - ground.speed)
    in_front = np.exp(3 * np.minimum(fast, 6.0))
    for time in times:
        motion = ground.speed * time + besides * FADES * (1 - math.exp(-time / FADES))
        for thing in things:
            motion[thing.region] = thing.movement.at(time)
        yield _moved(frames[0], motion, in_front, ground.at(time))


def _besides(layers: Layers) -> np.ndarray:
    """How the ground moves other than with the camera, in pixels a frame, (h, w, 2): the last flows, averaged around.

    Flow does not count where a thing is, or was a frame before, nor where the ground contradicts it.
    """
    side, sums, weights = min(layers.flows[0].shape[:2]), 0.0, 1e-6
    for ago, (flow, misled) in enumerate(zip(layers.flows, layers.misled, strict=False)):
        there = [shifted(thing.region, way) for thing in layers.things for way in thing.ways[ago : ago + 2]]
        shown = ~grown(np.logical_or.reduce([misled, *there]), side // 24)
        sums = sums + cv2.GaussianBlur(-flow * shown[..., None], (0, 0), side / 16)
        weights = weights + cv2.GaussianBlur(shown.astype(np.float32), (0, 0), side / 16)[..., None]
    return (sums / weights - layers.ground.speed) * (weights > 1e-3)


def _moved(frame: Tensor, motion: np.ndarray, in_front: np.ndarray, ground: np.ndarray) -> Tensor:
    """A frame whose pixels have gone where the motion takes them; of several in one place, those in front count, and
    where there is none, the ground."""
    colours = np.concatenate([frame.numpy(), 1 / in_front[..., None]], axis=-1)  # the last sums up to the share
    sums, weights = splatted(colours, motion, in_front)
    covered, image = sums[..., 3] >= 0.3, sums[..., :3] / np.maximum(weights, 1e-8)[..., None]
    image = np.where(covered[..., None], image, ground)
    unknown = np.isnan(image).any(axis=-1)
    image = (255 * np.nan_to_num(image).clip(0, 1)).round().astype(np.uint8)
    painted = cv2.inpaint(image, unknown.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    return torch.from_numpy(painted).float() / 255
