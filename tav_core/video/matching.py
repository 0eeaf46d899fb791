"""Where the pixels of one frame are in another: a whole frame for a camera that pans, or a thing in it."""

import cv2
import numpy as np

from .flow import pixel_grid

DIFFERENT = 0.06
"""Difference of colour, 0 to 1, from which two pixels do not show the same."""
REACH = 1 / 10
"""How far around, as a share of the frame's shorter side, something is looked for."""
COARSE = 80
"""The shorter side in pixels up to which all of the reach is searched; above, what was found at half the size is
refined."""
RIM = 1 / 24
"""How far around a thing the ground must look like the ground, as a share of the frame's shorter side."""
LEAST_CONTRAST = 1 / 255**2
"""The mean square difference from what is around, one level of one colour, below which a thing cannot be seen."""
RIM_COUNTS, NEAR_COUNTS = 0.5, 0.05
"""What a rim full of other things costs, and a place at the end of the reach, as shares of the thing's contrast."""


def pan(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How far most of a frame (h, w, 3) in 0..1 has moved in the second one: x and y in pixels, to parts of a pixel.

    What moves otherwise counts only by its area, however bright it is, since a pixel's difference is capped.
    """
    levels = [(first, second)]
    while min(levels[-1][0].shape[:2]) > COARSE:
        levels.append(tuple(_halved(frame) for frame in levels[-1]))
    coarsest = levels.pop()
    way = _best_shift(*coarsest, np.zeros(2, int), max(1, int(min(coarsest[0].shape[:2]) * REACH)))
    for frames in reversed(levels):
        way = _best_shift(*frames, np.round(2 * way).astype(int), 2)
    return way.astype(np.float32)


def _halved(frame: np.ndarray) -> np.ndarray:
    return cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _best_shift(first: np.ndarray, second: np.ndarray, middle: np.ndarray, reach: int) -> np.ndarray:
    right, down = middle.tolist()
    columns, rows = range(right - reach, right + reach + 1), range(down - reach, down + reach + 1)
    costs = np.array([[_difference(first, second, x, y) for x in columns] for y in rows])
    return middle - reach + _lowest(costs)


def _difference(first: np.ndarray, second: np.ndarray, x: int, y: int) -> float:
    """The mean difference of two frames, capped, where they overlap if the first is shifted."""
    height, width = first.shape[:2]
    own = first[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
    other = second[max(0, y) : height - max(0, -y), max(0, x) : width - max(0, -x)]
    return float(np.minimum(apart(own, other), DIFFERENT).mean()) if own.size else DIFFERENT


def apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How different the colours of two images (h, w, 3) are at most, (h, w); NaN where one of them is."""
    red, green, blue = cv2.split(cv2.absdiff(first, second))
    return np.maximum(np.maximum(red, green), blue)  # several times as fast as the maximum over a last axis of three


class Template:
    """A thing in a frame (h, w, 3), to be found in others: the pixels of its region (h, w), and a rim of ground."""

    def __init__(self, frame: np.ndarray, region: np.ndarray):
        side = min(region.shape)
        self.reach, rim = max(1, int(side * REACH)), max(2, int(side * RIM))
        around = grown(region, side // 12) & ~region
        away = np.square(frame[around] - frame[region].mean(axis=0)).sum(axis=-1)
        self.contrast = float(away.mean()) if away.size else 1.0
        inside = np.pad(region, rim)  # a thing may lie at the frame's edge
        rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        top, left = rows[0] - rim, columns[0] - rim
        box = np.s_[top : rows[-1] + rim + 1, left : columns[-1] + rim + 1]
        mask, known = inside[box], np.pad(np.ones_like(region), rim)[box]
        self.rim = (grown(mask, 2 * rim) & ~grown(mask, 3) & known).astype(np.float32)
        self.mask = mask.astype(np.float32)
        self.image = np.pad(frame, ((rim, rim), (rim, rim), (0, 0)))[box] * self.mask[..., None]
        self.corner = np.array([left - rim, top - rim])

    def found(
        self, frame: np.ndarray, things: np.ndarray, near: np.ndarray, *, far: bool = False
    ) -> tuple[np.ndarray, float]:
        """How far the thing is in another frame from its place in its own, x and y to parts of a pixel, and how
        different it looks there: the mean square of the difference, as a share of its contrast (infinite where none of
        it is in the frame, and for a thing without contrast).

        things: where the other frame is not its ground. near: where the thing is looked for. far: three times as far
            around as usually.
        """
        reach = 3 * self.reach if far else self.reach
        if self.contrast < LEAST_CONTRAST:
            return near, np.inf
        middle = np.round(near).astype(int)
        height, width = self.mask.shape
        start = self.corner + middle - reach
        shift = np.float32([[1, 0, -start[0]], [0, 1, -start[1]]])
        size = width + 2 * reach, height + 2 * reach
        window, other, inside = (
            cv2.warpAffine(each.astype(np.float32), shift, size, flags=cv2.INTER_NEAREST)
            for each in (frame, things, np.ones_like(things))
        )
        pixels = _correlated(inside, self.mask)
        squares = _correlated(inside, np.square(self.image).sum(axis=-1))
        squares += _correlated(np.square(window).sum(axis=-1), self.mask)
        squares -= 2 * sum(_correlated(window[..., part], self.image[..., part]) for part in range(3))
        errors = np.where(pixels > self.mask.sum() / 4, squares.clip(0) / pixels.clip(1), np.inf) / self.contrast
        rims = _correlated(other, self.rim) / _correlated(inside, self.rim).clip(1)
        away = np.square(pixel_grid(*errors.shape) - reach + middle - near).sum(axis=-1) / reach**2
        costs = errors + min(1, 0.3 / self.contrast) * (RIM_COUNTS * rims + NEAR_COUNTS * away)
        if not np.isfinite(costs).any():
            return near, np.inf
        y, x = np.unravel_index(costs.argmin(), costs.shape)
        return (middle - reach + _lowest(costs)).astype(np.float32), float(errors[y, x])


def _correlated(image: np.ndarray, template: np.ndarray) -> np.ndarray:
    return cv2.matchTemplate(np.ascontiguousarray(image), np.ascontiguousarray(template), cv2.TM_CCORR)


def _lowest(costs: np.ndarray) -> np.ndarray:
    """Where costs (h, w) are lowest, x and y: by parabolas through the lowest and its neighbours."""
    y, x = np.unravel_index(costs.argmin(), costs.shape)
    row, column = costs[y, max(x - 1, 0) : x + 2], costs[max(y - 1, 0) : y + 2, x]
    return np.array([x + _vertex(row), y + _vertex(column)])


def _vertex(around: np.ndarray) -> float:
    """Where the parabola through three values is lowest, from the middle one; 0 if there are not three."""
    if len(around) < 3 or not np.isfinite(around).all():
        return 0.0
    before, at, after = around.tolist()
    bend = before + after - 2 * at
    return (before - after) / (2 * bend) if bend > 0 else 0.0


def grown(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask grown by half of a size in pixels on all sides."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((size | 1, size | 1), np.uint8)) > 0


def closed(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask without gaps up to a size in pixels."""
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((size | 1, size | 1), np.uint8)) > 0
