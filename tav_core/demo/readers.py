"""Reads ground, style, colour, shape and centre back from an image of the drawn world, by plain image processing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from .world import COLOURS, GROUNDS, NIGHT, RIM, SHAPES, SIZE, STYLES, background, shape_mask

STANDS_OUT = 30  # of 255: how much an object's pixels differ from the ground behind it, at least; less at night
SMALLEST = 0.012  # fraction of the image; anything smaller is not an object
LIKE_ENOUGH = 0.6  # minimum overlap with a shape; true shapes reach 0.8 and more, shapeless blobs less
UNLIKE = 60  # of 255: limits what one pixel counts against a ground, so that the object does not decide


@dataclass(frozen=True)
class Reading:
    """What an image shows. Without an object, colour, shape and centre are None; shape is None for a blob, too.

    size: the square root of the object's area, in image widths; 0 without one.
    """

    ground: str
    style: str
    colour: str | None = None
    shape: str | None = None
    centre: tuple[float, float] | None = None
    size: float = 0.0


def read_image(image: np.ndarray) -> Reading:
    """Reads an image (128, 128, 3), uint8 RGB."""
    ground, style = read_ground(image)
    mask = object_mask(image, ground, style)
    area = mask.mean().item()
    if area < SMALLEST:
        return Reading(ground, style)
    rows, columns = np.nonzero(mask)
    centre = (columns.mean().item() + 0.5) / SIZE, (rows.mean().item() + 0.5) / SIZE
    colour, shape = _read_colour(image, mask, style), _read_shape(mask, centre, area)
    return Reading(ground, style, colour, shape, centre, size=area**0.5)


def read_ground(image: np.ndarray) -> tuple[str, str]:
    """The ground and style whose empty image is nearest."""
    names, empty = _empty_images()
    away = np.abs(empty - image.astype(np.float32)).mean(axis=3)
    return names[np.minimum(away, UNLIKE).mean(axis=(1, 2)).argmin()]


def object_mask(image: np.ndarray, ground: str, style: str) -> np.ndarray:
    """The largest region that differs from the ground: (128, 128) bool, with holes filled."""
    away = np.abs(image.astype(np.float32) - background(ground, style)).max(axis=2)
    least = STANDS_OUT * (NIGHT.mean() if style == "night" else 1)
    away = (cv2.GaussianBlur(away, (0, 0), 1) > least).astype(np.uint8)
    away = cv2.morphologyEx(away, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    outlines, _ = cv2.findContours(away, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    mask = np.zeros(away.shape, np.uint8)
    if outlines:
        cv2.drawContours(mask, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return mask.astype(bool)


def _read_shape(mask: np.ndarray, centre: tuple[float, float], area: float) -> str | None:
    """The shape with the largest overlap (intersection over union); None if no overlap is large enough."""
    radius = float(np.sqrt(area / np.pi))
    overlaps = {}
    for shape in SHAPES:
        ideal = shape_mask(shape, centre, radius) > 0.5
        overlaps[shape] = ((mask & ideal).sum() / (mask | ideal).sum()).item()
    best = max(overlaps, key=overlaps.get)
    return best if overlaps[best] > LIKE_ENOUGH else None


def _read_colour(image: np.ndarray, mask: np.ndarray, style: str) -> str:
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    within = depth >= min(RIM + 2, 0.7 * depth.max())  # without the white rim
    seen = np.median(image[within].astype(np.float32), axis=0)
    names, lab = _palette(style)
    return names[np.square(lab - _lab(seen[None])).sum(axis=1).argmin()]


@cache
def _palette(style: str) -> tuple[list[str], np.ndarray]:
    colours = np.array(list(COLOURS.values()), np.float32)
    return list(COLOURS), _lab(colours * NIGHT if style == "night" else colours)


@cache
def _empty_images() -> tuple[list[tuple[str, str]], np.ndarray]:
    names = [(ground, style) for ground in GROUNDS for style in STYLES]
    return names, np.stack([background(*name) for name in names]).astype(np.float32)


def _lab(colours: np.ndarray) -> np.ndarray:
    """(n, 3) RGB in 0..255 to (n, 3) CIE L*a*b*."""
    return cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]


def share_right(readings: Sequence[Reading], attributes: Mapping[str, str]) -> float:
    """The share of images, 0..1, that show all these attributes."""
    return float(np.mean([all(getattr(r, name) == value for name, value in attributes.items()) for r in readings]))
