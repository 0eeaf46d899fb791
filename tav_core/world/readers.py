"""Reads style, ground and things back from an image of the drawn world, without a network.

The colours of things are vivid and those of grounds are muted, so the chroma of a pixel separates them. A thing is what
its silhouette resembles most; a figure's action is that of the pose it resembles most.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import cv2
import numpy as np

from .draw import NIGHT, WARM, centre_of, coverage
from .ground import PALETTE
from .scene import ACTIONS, COLOURS, FIGURES, SHAPES, SIZE, Thing

VIVID = 38  # the least chroma (CIE L*a*b*) of a thing's pixels; those of grounds reach 36
SMALLEST = 40  # pixels; anything smaller is not a thing
SPECK = 14  # pixels; smaller regions are noise
GRID = 32  # silhouettes are compared at this size
ALIKE = 0.62  # the least overlap with the most similar silhouette; below it, a thing has no kind
NIGHTFALL = 0.6  # of the way from day to night
FLAT = 0.24  # of 255 per pixel: the flattest quarter of a cartoon's earth changes less from row to row
DARK = 75  # of 255: a cartoon's outlines are darker
PHASES = 16  # poses of each action that are compared


@dataclass(frozen=True, eq=False)
class Seen:
    """A thing in an image. kind is None for a blob; action is None for a blob and for shapes.

    mask: (128, 128) bool, its visible pixels. centre: their centroid. size: the square root of their area; both in
    image widths.
    """

    colour: str
    kind: str | None
    action: str | None
    mask: np.ndarray
    centre: tuple[float, float]
    size: float


@dataclass(frozen=True, eq=False)
class Reading:
    """What an image shows.

    things: the largest first, at most one per colour. labels: (128, 128), as `thing_pixels` gives them.
    """

    ground: str
    style: str
    things: tuple[Seen, ...]
    labels: np.ndarray

    def thing(self, colour: str) -> Seen | None:
        return next((seen for seen in self.things if seen.colour == colour), None)


def read_image(image: np.ndarray) -> Reading:
    """Reads an image (128, 128, 3), uint8 RGB."""
    labels = thing_pixels(image)
    ground, darkness = read_ground(image, labels > 0)
    is_cartoon = _is_cartoon(image, labels > 0, ground)
    style = "night" if darkness > NIGHTFALL else "cartoon" if is_cartoon else "plain"
    things = []
    for number, colour in enumerate(COLOURS, 1):
        mask = labels == number
        if mask.sum() >= SMALLEST:
            kind, action = read_kind(mask)
            things.append(Seen(colour, kind, action, mask, centre_of(mask), float(np.sqrt(mask.sum())) / SIZE))
    return Reading(ground, style, tuple(sorted(things, key=lambda seen: -seen.size)), labels)


def thing_pixels(image: np.ndarray) -> np.ndarray:
    """For each pixel (128, 128), uint8: 0 on the ground, otherwise 1 + the number of its colour in COLOURS."""
    pixels = image.astype(np.float32) / 255
    _, darkness = read_ground(image, np.zeros(image.shape[:2], bool))
    seen, palette = lab(np.minimum(pixels / _night(darkness), 1)), _palette()
    chroma, own = np.hypot(*seen[..., 1:].transpose(2, 0, 1)), np.hypot(*palette[:, 1:].T)
    hue, hues = np.arctan2(seen[..., 2], seen[..., 1]), np.arctan2(palette[:, 2], palette[:, 1])
    turned = np.abs((hue[..., None] - hues + np.pi) % (2 * np.pi) - np.pi)
    away = turned * 60 + 0.25 * np.abs(seen[..., :1] - palette[:, 0]) + 0.25 * np.abs(chroma[..., None] - own)
    nearest = away.argmin(axis=2)
    vivid = chroma > np.maximum(VIVID, 0.48 * own[nearest])
    # where two things meet, mixed pixels look like a third colour: the majority of the neighbours decides
    votes = [cv2.blur((vivid & (nearest == number)).astype(np.float32), (5, 5)) for number in range(len(COLOURS))]
    labels = np.where(vivid, 1 + np.argmax(votes, axis=0), 0).astype(np.uint8)
    for number in range(1, len(COLOURS) + 1):
        outlines, _ = cv2.findContours((labels == number).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for outline in outlines:
            region = cv2.drawContours(np.zeros_like(labels), [outline], -1, 1, cv2.FILLED) > 0
            if region.sum() < SPECK:
                labels[region & (labels == number)] = 0
            else:  # with eyes, muzzles and highlights
                labels[region & (labels == 0)] = number
    return labels


# Kinds and actions


def read_kind(mask: np.ndarray) -> tuple[str | None, str | None]:
    """The kind and action of the most similar silhouette; (None, None) if none is similar enough."""
    names, silhouettes = _silhouettes()
    seen = _silhouette(mask).ravel()
    shared = silhouettes @ seen
    overlaps = shared / (silhouettes.sum(axis=1) + seen.sum() - shared)
    best = overlaps.argmax()
    return names[best] if overlaps[best] > ALIKE else (None, None)


def _silhouette(mask: np.ndarray) -> np.ndarray:
    """A mask moved to the middle of a grid and scaled to one area, (GRID, GRID) in 0..1."""
    (x, y), side = centre_of(mask), np.sqrt(mask.sum()) / (0.3 * GRID)
    scale = np.float32(((1 / side, 0, GRID / 2 - SIZE * x / side), (0, 1 / side, GRID / 2 - SIZE * y / side)))
    return cv2.warpAffine(mask.astype(np.float32), scale, (GRID, GRID), flags=cv2.INTER_AREA)


@cache
def _silhouettes() -> tuple[list[tuple[str, str | None]], np.ndarray]:
    examples = [Thing(shape, "red", radius=0.15) for shape in SHAPES]
    for kind in FIGURES:
        for action in ACTIONS:
            phases = np.linspace(0.15, 0.85, PHASES) if action == "jumping" else np.arange(PHASES) / PHASES
            for phase in phases.tolist():
                examples += [Thing(kind, "red", radius=0.15, action=action, phase=phase, facing=f) for f in (-1, 1)]
    return [(e.kind, e.action or None) for e in examples], np.stack(
        [_silhouette(coverage(e) > 0.5).ravel() for e in examples]
    )


# Ground and style


def read_ground(image: np.ndarray, things: np.ndarray) -> tuple[str, float]:
    """The ground whose colours are nearest, in some light, and how dark it is: 0 by day, 1 at night."""
    names, expected, clouded = _ground_colours()
    sky, earth = (np.median(_clear(image[rows], things[rows]), axis=0) for rows in (np.s_[:40], np.s_[84:]))
    along = clouded - expected[:, 0]  # of the sky, which clouds whiten by an unknown part
    part = np.clip(((sky - expected[:, 0]) * along).sum(axis=1) / np.square(along).sum(axis=1), 0, 1)
    away = np.linalg.norm(expected[:, 0] + part[:, None] * along - sky, axis=1)
    away = away + 1.5 * np.linalg.norm(expected[:, 1] - earth, axis=1)
    return names[away.argmin()]


def _is_cartoon(image: np.ndarray, things: np.ndarray, ground: str) -> bool:
    """Whether the earth is flat; on the sea, whose crests are drawn in either style, whether things have outlines."""
    grey, near = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), _widened(things, 7)
    if ground != "sea":
        steps = np.abs(np.diff(cv2.GaussianBlur(grey, (0, 0), 2), axis=0))[84:]
        return bool(np.percentile(_clear(steps, near[85:]), 25) < FLAT)  # craters and shadows are not flat
    ring = _widened(things, 3) & ~things
    return bool(ring.any() and np.mean(grey[ring] < DARK) > 0.5)


def _clear(pixels: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """The pixels (n, ...) that are not covered; all of them if all are."""
    return pixels[~covered | covered.all()]


def _widened(mask: np.ndarray, size: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((size, size))) > 0


def _night(darkness: float) -> np.ndarray:
    """The factors of red, green and blue between day and night."""
    return 1 + darkness * (NIGHT - 1)


@cache
def _ground_colours() -> tuple[list[tuple[str, float]], np.ndarray, np.ndarray]:
    """Names and darkness, the colours of sky and earth (n, 2, 3), and of a clouded sky (n, 3), in each light."""
    names, expected, clouded = [], [], []
    lights = list(product((0.0, 0.25, 0.5, 0.75, 1.0), np.linspace(0.85, 1.1, 6), (-0.8, 0, 0.8)))
    for ground, (sky, earth) in PALETTE.items():
        pair = np.array((np.average(sky, axis=0, weights=(0.6, 0.4)), np.average(earth, axis=0, weights=(0.35, 0.65))))
        cloud = np.array((226, 230, 234)) if ground != "moon" else pair[0] + 4
        for darkness, brightness, warmth in lights:
            light = brightness * (1 + warmth * WARM) * _night(darkness)
            names.append((ground, darkness))
            expected.append(pair * light)
            clouded.append(cloud * light)
    return names, np.array(expected), np.array(clouded)


def lab(pixels: np.ndarray) -> np.ndarray:
    """RGB in 0..1, (h, w, 3), to CIE L*a*b*."""
    return cv2.cvtColor(pixels.astype(np.float32), cv2.COLOR_RGB2LAB)


@cache
def _palette() -> np.ndarray:
    return lab(np.array(list(COLOURS.values()), np.float32)[None] / 255)[0]
