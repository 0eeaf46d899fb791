"""Outlines as polygons (n, 2) in image widths, and the parts that things are drawn with."""

from dataclasses import dataclass

import cv2
import numpy as np

from .scene import Thing

SPIKE = 0.47  # a star's inner radius, relative to its outer one


@dataclass(frozen=True, eq=False)
class Part:
    """A polygon of one colour that moves rigidly, so that its optical flow is known.

    outline: its corners (n, 2). shade: factor of the thing's colour; white: how much of it is white; colour: its own.
    origin, angle, scale: where its own coordinates lie in the image; from frame to frame, only they change.
    """

    outline: np.ndarray
    origin: np.ndarray
    angle: float = 0.0
    scale: float = 1.0
    shade: float = 1.0
    white: float = 0.0
    colour: tuple[int, int, int] | None = None

    @classmethod
    def between(cls, start, end, outline, shade: float = 1.0, white: float = 0.0, colour=None) -> "Part":
        """A part whose own coordinates run from the joint `start` to the joint `end`."""
        along = np.subtract(end, start)
        angle, length = np.arctan2(along[1], along[0]).item(), np.linalg.norm(along).item()
        return cls(outline, np.array(start), angle, length, shade, white, colour)

    def flow_to(self, after: "Part", points: np.ndarray) -> np.ndarray:
        """How far the part's points (n, 2) have moved when it is at `after`, in image widths."""
        turn, scale = after.angle - self.angle, after.scale / self.scale
        matrix = scale * np.array(((np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))))
        return after.origin + (points - self.origin) @ matrix.T - points


def shape_outline(kind: str) -> np.ndarray:
    """A shape's outline with its centroid at (0, 0) and the area of a ball of radius 1."""
    if kind == "ball":
        angles, lengths = np.linspace(0, 2 * np.pi, 90, endpoint=False), 1.0
    elif kind == "box":
        angles, lengths = np.pi / 4 + np.arange(4) * np.pi / 2, 1.0
    elif kind == "triangle":
        angles, lengths = -np.pi / 2 + np.arange(3) * 2 * np.pi / 3, 1.0
    else:
        angles, lengths = -np.pi / 2 + np.arange(10) * np.pi / 5, np.where(np.arange(10) % 2, SPIKE, 1.0)
    corners = np.stack([lengths * np.cos(angles), lengths * np.sin(angles)], axis=1)
    return corners * np.sqrt(np.pi / cv2.contourArea(corners.astype(np.float32)))


def shape_parts(thing: Thing) -> list[Part]:
    centre, outline = np.array(thing.centre), thing.radius * shape_outline(thing.kind)
    parts = [Part(centre + outline, centre, scale=thing.radius)]
    for low, high in ((-0.55, -0.18), (0.18, 0.55)) if thing.striped else ():
        band = _within_rows(outline, low * thing.radius, high * thing.radius)
        parts.append(Part(centre + band, centre, scale=thing.radius, white=1.0))
    return parts


def _within_rows(outline: np.ndarray, low: float, high: float) -> np.ndarray:
    """The part of an outline between two rows; of shapes whose rows are unbroken there."""
    for sign, limit in ((1, low), (-1, -high)):
        kept = []
        for start, end in zip(outline, np.roll(outline, -1, axis=0), strict=True):
            inside, next_inside = sign * start[1] >= limit, sign * end[1] >= limit
            if inside:
                kept.append(start)
            if inside != next_inside:
                kept.append(start + (end - start) * (sign * limit - start[1]) / (end[1] - start[1]))
        outline = np.array(kept)
    return outline


def ellipse(centre, radii) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.asarray(centre) + np.stack([radii[0] * np.cos(turn), radii[1] * np.sin(turn)], -1)


def limb(start: np.ndarray, end: np.ndarray, start_radius: float, end_radius: float, *, square=False) -> np.ndarray:
    """The outline around two joints, with round ends; square: with straight ones."""
    if not square:
        ends = [ellipse(start, (start_radius,) * 2), ellipse(end, (end_radius,) * 2)]
        return polygon(np.concatenate(ends), hull=True)
    along = (end - start) / max(np.linalg.norm(end - start), 1e-9)
    across = np.array((-along[1], along[0]))
    start, end = start - 0.5 * start_radius * along, end + 0.5 * end_radius * along
    return np.array(
        [
            start + start_radius * across,
            end + end_radius * across,
            end - end_radius * across,
            start - start_radius * across,
        ]
    )


def polygon(corners, *, hull: bool = False) -> np.ndarray:
    corners = np.asarray(corners)
    return cv2.convexHull(corners.astype(np.float32))[:, 0].astype(float) if hull else corners
