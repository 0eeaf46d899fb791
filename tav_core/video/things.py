"""Things that move against the ground of a video: which pixels they are, and how they go on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from .flow import pixel_grid
from .matching import DIFFERENT, Template, closed, grown
from .movement import Movement

HOLES = 1 / 10
"""The size of what a region may lack of its thing, as a share of the frame's shorter side: the inside of a plain thing
hides the ground for so long that it is taken for it."""
SMALLEST = 1 / 32
"""The side of the smallest thing, as a share of the frame's shorter side."""
ROUNDS = 3
"""How often a thing is followed, each time without the pieces of ground that were seen to stay behind."""
CLEARER = 0.01
"""How much better, in colour from 0 to 1, what goes along with a thing must look there than where the ground goes."""
SURE, UNSURE = 0.05, 0.15
"""The mean difference, as a share of a thing's contrast, up to which it was found for sure, and from which it was not.
"""
SURE_AGAIN = 0.3
"""The same, up to which a thing that is not where the flow leads is taken to be elsewhere."""
LOST = 0.4
"""The difference, as a share of a thing's contrast, from which what was found is another thing."""


@dataclass(frozen=True, eq=False)
class Thing:
    """A thing in the last frame.

    region: (h, w), true where it is. rigid: the same, where it moves as one. ways: how far it is in each frame from
    there, the last one first; x and y in pixels.
    """

    region: np.ndarray
    rigid: np.ndarray
    ways: list[np.ndarray]
    movement: Movement

    def where(self, differs: np.ndarray) -> "Thing":
        """The same without what does not differ from the ground, (h, w)."""
        return replace(self, region=filled(self.region & differs))


def things_in(
    frames: Sequence[np.ndarray],
    flows: Sequence[np.ndarray],
    ground_ways: Sequence[np.ndarray],
    differs: Sequence[np.ndarray],
    moving: np.ndarray,
) -> Iterator[Thing]:
    """The things in the last frame of a video.

    frames: each (h, w, 3), the last one first. flows: from each of them to the next, (h, w, 2). ground_ways: how far
    the ground is in each frame from where it is in the last one. differs: (h, w), where each frame is not its ground.
    moving: (h, w), where things move against it.

    Each connected region that is not the ground and moves is followed, and then what of it goes its way rather than the
    ground's, so that pieces of the ground do not lead it astray. What limbs do besides is not followed, but they belong
    to the thing. It goes on as its way shows where it was seen.
    """
    smallest = (min(moving.shape) * SMALLEST) ** 2
    candidates = list(_candidates(differs[0], moving, smallest))
    for region in _joined(candidates, frames, flows, differs):
        region = region | (closed(region, int(min(moving.shape) * HOLES)) & moving)
        rigid = whole = region
        for _ in range(ROUNDS):
            ways, _ = _followed(rigid, frames, flows, differs)
            rigid, whole = _going_along(region, rigid, frames, ways, ground_ways)
            if rigid.sum() < smallest:
                break
        else:
            ways, errors = _followed(rigid, frames, flows, differs)
            seen = [ago for ago, error in enumerate(errors, 1) if error < LOST]
            if seen:
                found = [ways[ago] for ago in seen], [errors[ago - 1] for ago in seen]
                yield Thing(whole, rigid, ways, Movement(seen, *found, min(moving.shape)))


def _candidates(differs: np.ndarray, moving: np.ndarray, smallest: float) -> Iterator[np.ndarray]:
    near = differs & grown(moving, min(moving.shape) // 12)
    count, regions = cv2.connectedComponents(near.astype(np.uint8))
    areas = np.bincount(regions.ravel(), minlength=count)
    for number in range(1, count):
        region = regions == number
        if areas[number] >= smallest and moving[region].mean() > 0.2:
            yield region


def _joined(
    regions: Sequence[np.ndarray],
    frames: Sequence[np.ndarray],
    flows: Sequence[np.ndarray],
    differs: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Regions of which those nearby are one, if they are found again as one: the parts of a thing whose inside shows
    nothing. Of parts that are not found again for sure, each belongs to the larger one."""
    whole: list[np.ndarray] = []
    for region in sorted(regions, key=np.count_nonzero, reverse=True):
        near = grown(region, min(region.shape) // 12)
        for number, other in enumerate(whole):
            if not (near & other).any():
                continue
            both = closed(region | other, 5)
            together, alone = (np.mean(_followed(each, frames, flows, differs)[1]) for each in (both, region))
            if together < SURE or alone > UNSURE:
                whole[number] = both
                break
        else:
            whole.append(region)
    return whole


def _followed(
    region: np.ndarray, frames: Sequence[np.ndarray], flows: Sequence[np.ndarray], differs: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[float]]:
    """How far a region is in each frame from where it is in the last one, x and y, and how different it looks there.

    The flow tells where to look for it; its own pixels tell where it is, so that errors do not add up.
    """
    template, ways, errors = Template(frames[0], region), [np.zeros(2, np.float32)], []
    places = pixel_grid(*region.shape)[_core(region)]
    places = places[:: len(places) // 4096 + 1, None]  # OpenCV takes at most 32767, and so many do
    for flow, frame, others in zip(flows, frames[1:], differs[1:], strict=True):
        steps = cv2.remap(flow, places + ways[-1], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        near = ways[-1] + np.median(steps.reshape(-1, 2), axis=0)
        way, error = template.found(frame, others, near)
        if error >= LOST:  # too fast for the flow, perhaps
            before = ways[-2] if ways[1:] else ways[-1]
            other_way, other_error = template.found(frame, others, 2 * ways[-1] - before, far=True)
            if other_error < SURE_AGAIN:
                way, error = other_way, other_error
        ways.append(way if error < LOST else near)
        errors.append(error)
    return ways, errors


def _core(region: np.ndarray) -> np.ndarray:
    """The inner part of a region; the flow near its rim is partly the ground's."""
    depth = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, 3)
    return depth >= depth.max() / 2


def _going_along(
    region: np.ndarray,
    thing: np.ndarray,
    frames: Sequence[np.ndarray],
    ways: Sequence[np.ndarray],
    ground_ways: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """The parts of a region that go a thing's way rather than the ground's, and those that do not look as if they went
    the ground's, such as limbs; (h, w) each. Where the thing is, it hides the ground."""
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    own = _unlike(frames, box, ways, [np.zeros_like(region)] * len(ways))
    grounds = _unlike(frames, box, ground_ways, [shifted(thing, way) for way in ways])
    along, parts = own < grounds - CLEARER, []
    for part in (along, along | (grounds > DIFFERENT)):
        found = np.zeros_like(region)
        found[box] = filled(region[box] & part)
        parts.append(found)
    return parts[0], parts[1]


def _unlike(
    frames: Sequence[np.ndarray], box: tuple[slice, slice], ways: Sequence[np.ndarray], hidden: Sequence[np.ndarray]
) -> np.ndarray:
    """The mean difference of a box of the first frame from where its pixels are in the others, if they go so and are
    not hidden there; 1 where they are in none."""
    first, places = frames[0][box], pixel_grid(*frames[0].shape[:2])[box]
    sums, counts = np.zeros(first.shape[:2], np.float32), np.zeros(first.shape[:2], np.float32)
    for frame, way, behind in zip(frames[1:], ways[1:], hidden[1:], strict=False):
        where = (places + way).astype(np.float32)
        seen = cv2.remap(frame, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        shown = cv2.remap((~behind).astype(np.uint8), where, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
        sums += np.minimum(np.abs(first - seen), 4 * DIFFERENT).mean(axis=-1) * shown
        counts += shown
    return cv2.blur(np.where(counts > 0, sums / counts.clip(1), 1).astype(np.float32), (3, 3))


def filled(region: np.ndarray) -> np.ndarray:
    """A region with its holes, and without what is thinner than 3 pixels."""
    outlines, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    whole = cv2.drawContours(np.zeros(region.shape, np.uint8), outlines, -1, 1, cv2.FILLED)
    return cv2.morphologyEx(whole, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0


def shifted(region: np.ndarray, way: np.ndarray) -> np.ndarray:
    """A region (h, w), moved by x and y in pixels."""
    shift = np.float32([[1, 0, way[0]], [0, 1, way[1]]])
    return cv2.warpAffine(region.astype(np.uint8), shift, region.shape[::-1]) > 0
