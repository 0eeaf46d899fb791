"""Two-part articulated figures: their joints in each action, and the parts they are drawn with."""

from typing import NamedTuple

import numpy as np

from .dancer import (
    L_ANKLE,
    L_EAR,
    L_ELBOW,
    L_EYE,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    L_WRIST,
    NECK,
    NOSE,
    R_ANKLE,
    R_EAR,
    R_ELBOW,
    R_EYE,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    R_WRIST,
)
from .outlines import Part, ellipse, limb, polygon
from .scene import FIGURE, Thing

ARMS = (R_SHOULDER, R_ELBOW, R_WRIST), (L_SHOULDER, L_ELBOW, L_WRIST)
LEGS = (R_HIP, R_KNEE, R_ANKLE), (L_HIP, L_KNEE, L_ANKLE)
UPPER_ARM, FOREARM, THIGH, SHIN = 0.64, 0.62, 0.74, 0.74  # in the figure's unit of length


class Angles(NamedTuple):
    """Of the limbs (right, left), upper and lower part, from hanging down, in radians towards the right of the image.

    raised: how high the figure is above where it stands, in its unit of length.
    """

    arms: tuple[tuple[float, float], tuple[float, float]]
    legs: tuple[tuple[float, float], tuple[float, float]]
    raised: float


def angles_at(action: str, phase: float, facing: int) -> Angles:
    """The pose of an action at a phase, 0..1 in one cycle: two steps, one jump from and to the ground, one wave."""
    turn = 2 * np.pi * phase
    swing, other = np.sin(turn), np.cos(turn)
    if action == "walking":
        legs = [(0.58 * side * swing, 0.58 * side * swing - 0.75 * max(0.0, side * other)) for side in (-1, 1)]
        arms = [(-0.55 * side * swing, -0.55 * side * swing + 0.45) for side in (-1, 1)]
        legs, arms = (tuple((facing * upper, facing * lower) for upper, lower in limbs) for limbs in (legs, arms))
        return Angles(arms, legs, 0.06 * abs(other))
    if action == "jumping":
        height = np.sin(np.pi * phase)
        arms = tuple((side * (0.5 + 1.75 * height), side * (0.6 + 2.1 * height)) for side in (-1, 1))
        legs = tuple((side * (0.15 + 0.75 * height), side * (0.1 - 0.35 * height)) for side in (-1, 1))
        return Angles(arms, legs, 0.9 * height)
    if action == "waving":
        arms = [(-0.3, -0.15), (1.75, 2.75 + 0.65 * swing)]
        if facing < 0:
            arms = [(-upper, -lower) for upper, lower in reversed(arms)]
        return Angles(tuple(arms), ((-0.14, -0.1), (0.14, 0.1)), 0.0)
    raise ValueError(f"Unknown action {action!r}.")


def joints(thing: Thing) -> np.ndarray:
    """A figure's 18 keypoints (18, 2), in OpenPose's order; right and left are its own, as it faces the viewer."""
    unit, angles = FIGURE * thing.radius, angles_at(thing.action, thing.phase, thing.facing)
    body = np.zeros((18, 2))
    middle = np.array((0.0, -angles.raised))
    body[NECK] = _beside(middle, 0, -0.78)
    sideways = thing.action == "walking"  # then its shoulders and hips are narrow
    for side, (arm, leg) in zip((-1, 1), zip(ARMS, LEGS, strict=True), strict=True):
        body[arm[0]] = _beside(body[NECK], side * (0.2 if sideways else 0.38), 0.1)
        body[leg[0]] = _beside(middle, side * (0.1 if sideways else 0.2), 0.56)
    for chains, turns, lengths in ((ARMS, angles.arms, (UPPER_ARM, FOREARM)), (LEGS, angles.legs, (THIGH, SHIN))):
        for chain, pair in zip(chains, turns, strict=True):
            for start, end, turn, length in zip(chain, chain[1:], pair, lengths, strict=False):
                body[end] = body[start] + length * np.array((np.sin(turn), np.cos(turn)))
    look = 0.1 * thing.facing * sideways
    body[NOSE] = _beside(body[NECK], look, -0.58)
    for side, eye, ear in ((-1, R_EYE, R_EAR), (1, L_EYE, L_EAR)):
        body[eye] = _beside(body[NOSE], side * 0.15, -0.1)
        body[ear] = _beside(body[NOSE], side * 0.3 - look, -0.04)
    return np.array(thing.centre) + unit * body


class Build(NamedTuple):
    """A kind of figure: half widths of its arms and legs at both ends and of its torso at shoulders and hips."""

    arms: tuple[float, float]
    legs: tuple[float, float]
    torso: tuple[float, float]
    square: bool = False


BUILDS = {
    "man": Build((0.16, 0.13), (0.2, 0.15), (0.36, 0.27)),
    "robot": Build((0.17, 0.17), (0.2, 0.2), (0.5, 0.44), square=True),
    "bear": Build((0.27, 0.24), (0.31, 0.28), (0.54, 0.62)),
}
DARK, PALE = (26, 22, 26), 0.3  # of eyes; of how white muzzles and panels are


def parts_of(thing: Thing) -> list[Part]:
    """A figure's parts, back to front."""
    unit, body, build = FIGURE * thing.radius, joints(thing), BUILDS[thing.kind]
    far, near = ((1, 0), (0, 1))[thing.facing < 0]  # facing right, its right side is nearer
    parts = _limb(body, LEGS[far], build.legs, build, unit, 0.78)
    parts += _limb(body, ARMS[far], build.arms, build, unit, 0.78)
    parts += _limb(body, LEGS[near], build.legs, build, unit, 0.88)
    parts += [*_torso(body, build, unit), *_head(thing.kind, body, unit)]
    return parts + _limb(body, ARMS[near], build.arms, build, unit, 0.9)


def _limb(body, chain, widths, build: Build, unit: float, shade: float) -> list[Part]:
    start, middle, end = (body[joint] for joint in chain)
    upper, lower, between = unit * widths[0], unit * widths[1], unit * np.mean(widths)
    halves = ((start, middle, upper, between), (middle, end, between, lower))
    return [Part.between(a, b, limb(a, b, wide, narrow, square=build.square), shade) for a, b, wide, narrow in halves]


def _torso(body: np.ndarray, build: Build, unit: float) -> list[Part]:
    top, hips = body[NECK], (body[R_HIP] + body[L_HIP]) / 2
    middle, half, (upper, lower) = (top + hips) / 2, np.linalg.norm(hips - top) / 2, build.torso
    corners = [_beside(top, side * upper, 0, unit) for side in (-1, 1)]
    corners += [_beside(hips, side * lower, 0.12, unit) for side in (1, -1)]
    if build.square:
        panel = ellipse(_beside(middle, 0, -0.15, unit), (0.2 * unit, 0.2 * unit))
        return [Part.between(top, hips, polygon(corners)), Part.between(top, hips, panel, white=PALE)]
    if upper < lower:  # a bear's, round
        belly = ellipse(_beside(middle, 0, 0.2, unit), (0.34 * unit, 0.4 * unit))
        outline = ellipse(middle, (lower * unit, half + 0.2 * unit))
        return [Part.between(top, hips, outline), Part.between(top, hips, belly, white=PALE)]
    rounded = np.concatenate([ellipse(corner, (0.09 * unit,) * 2) for corner in corners])
    return [Part.between(top, hips, polygon(rounded, hull=True))]


def _head(kind: str, body: np.ndarray, unit: float) -> list[Part]:
    nose, neck = body[NOSE], body[NECK]

    def part(outline: np.ndarray, shade: float = 1.0, white: float = 0.0, colour=None) -> Part:
        return Part.between(neck, nose, outline, shade, white, colour)

    def disc(centre: np.ndarray, width: float, height: float | None = None) -> np.ndarray:
        return ellipse(centre, (width * unit, (height or width) * unit))

    eyes = [part(disc(body[eye], 0.075), colour=DARK) for eye in (R_EYE, L_EYE)]
    if kind == "robot":
        top, tip = _beside(nose, 0, -0.42, unit), _beside(nose, 0, -0.64, unit)
        corners = ((-0.44, -0.42), (0.44, -0.42), (0.44, 0.4), (-0.44, 0.4))
        box = polygon([_beside(nose, *corner, unit) for corner in corners])
        antenna = limb(top, tip, 0.05 * unit, 0.05 * unit, square=True)
        return [part(antenna, 0.8), part(disc(_beside(nose, 0, -0.68, unit), 0.11)), part(box, 1.05), *eyes]
    if kind == "bear":
        ears = [part(disc(_beside(nose, side * 0.38, -0.4, unit), 0.2), 0.85) for side in (-1, 1)]
        muzzle = part(disc(_beside(nose, 0, 0.16, unit), 0.24, 0.18), white=PALE)
        return [*ears, part(disc(nose, 0.54, 0.5), 1.05), muzzle, *eyes]
    throat = limb(neck, nose, 0.13 * unit, 0.13 * unit)
    return [part(throat, 0.85), part(disc(nose, 0.36, 0.42), white=0.15), *eyes]


def _beside(point: np.ndarray, right: float, down: float, unit: float = 1.0) -> np.ndarray:
    return point + unit * np.array((right, down))
