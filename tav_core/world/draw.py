"""Draws scenes, and the truth about them: masks, centres, depth, poses and optical flow."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from . import dancer
from .figures import joints, parts_of
from .ground import CREAM, OUTLINE, draw_ground
from .outlines import Part, shape_parts
from .scene import COLOURS, HORIZON, PAPER, SIZE, Scene, Thing

FINER = 4  # supersampling factor, for smooth edges
NIGHT = np.array((0.50, 0.53, 0.68), np.float32)  # factors of red, green and blue
WARM = np.array((0.05, 0.0, -0.06), np.float32)


def draw(scene: Scene) -> np.ndarray:
    """Draws an image (128, 128, 3), uint8 RGB."""
    image = draw_ground(scene)
    for thing in scene.things:
        image = image * (1 - _shadow(thing, scene))[..., None]
    for number in scene.back_to_front:
        colour, cover = _drawn(scene.things[number], scene)
        image = image + (colour - image) * cover[..., None]
    image = image * scene.light.brightness * (1 + scene.light.warmth * WARM)
    if scene.style == "night":
        image = image * NIGHT
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def draw_clip(scenes: Sequence[Scene]) -> np.ndarray:
    """Draws a clip (f, 128, 128, 3), uint8 RGB."""
    return np.stack([draw(scene) for scene in scenes])


def parts(thing: Thing) -> list[Part]:
    """The parts a thing is drawn with, back to front; the same ones in every frame, unless a figure turns round."""
    return parts_of(thing) if thing.is_figure else shape_parts(thing)


def _drawn(thing: Thing, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """A thing's colour (128, 128, 3) and coverage (128, 128), 0..1."""
    fine = np.zeros((SIZE * FINER, SIZE * FINER, 4), np.float32)
    drawn, cartoon = parts(thing), scene.style == "cartoon"
    line, width = {"cartoon": (OUTLINE, 3), PAPER: (CREAM, 7)}.get(scene.style, (None, 0))
    for part in drawn if line else ():
        cv2.polylines(fine, [_fixed(part.outline)], True, (*line, 1), width * FINER, cv2.LINE_8, 4)
    own = np.array(COLOURS[thing.colour], np.float32)
    for part in drawn:
        colour = np.float32(part.colour) if part.colour else own * min(part.shade, 1 if cartoon else 2)
        colour = colour + (250 - colour) * part.white
        cv2.fillPoly(fine, [_fixed(part.outline)], (*colour.tolist(), 1), cv2.LINE_8, 4)
    small = cv2.resize(fine, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    cover = small[..., 3]
    colour = small[..., :3] / np.maximum(cover, 1e-6)[..., None]
    return colour if cartoon else _lit(colour, thing, scene), cover


def _lit(colour: np.ndarray, thing: Thing, scene: Scene) -> np.ndarray:
    """Brighter on the side of the light and at the top; balls with a highlight."""
    rows, columns = (np.mgrid[:SIZE, :SIZE].astype(np.float32) + 0.5) / SIZE
    reach = thing.radius * (1.8 if thing.is_figure else 1)
    right, down = (columns - thing.centre[0]) / reach, (rows - thing.centre[1]) / reach
    shade = np.clip(0.14 * (scene.light.direction * right - 0.7 * down), -0.2, 0.12)
    if thing.kind == "ball":
        side = 0.4 * np.sign(scene.light.direction)
        shade = shade + 0.3 * np.exp(-5 * ((right - side) ** 2 + (down + 0.42) ** 2))
    shade = shade[..., None]
    return colour * (1 + np.minimum(shade, 0)) + (255 - colour) * np.maximum(shade, 0)


def _shadow(thing: Thing, scene: Scene) -> np.ndarray:
    """How dark a thing makes the ground, (128, 128): a soft ellipse at its foot, away from the light."""
    rows, columns = (np.mgrid[:SIZE, :SIZE].astype(np.float32) + 0.5) / SIZE
    height = max(0.0, thing.foot - thing.centre[1] - thing.radius)
    middle = thing.centre[0] - scene.light.direction * (0.3 * thing.radius + 0.4 * height)
    width = thing.radius * (1.1 + height)
    square = ((columns - middle) / width) ** 2 + ((rows - thing.foot) / (0.3 * width)) ** 2
    strength = {"plain": 0.45, "cartoon": 0.35, "night": 0.3, PAPER: 0.3}[scene.style] / (1 + 2.5 * height)
    return strength * np.clip(1.5 - square, 0, 1) * (rows > HORIZON - scene.camera[1])


def _fixed(points: np.ndarray, finer: int = FINER) -> np.ndarray:
    return np.round((points * SIZE * finer - 0.5) * 16).astype(np.int32)  # OpenCV's fixed point, shift 4


# Truth


@dataclass(frozen=True, eq=False)
class Truth:
    """What a frame shows, for each of the scene's things (n) in the caption's order.

    masks: (n, 128, 128) bool, of their visible pixels. whole: the same as if nothing were in front of them.
    shares: (n,), the visible share of each, 0..1, counting what lies outside the frame as hidden.
    centres: of the visible pixels, (x, y) in image widths; None where a thing is hidden.
    sizes: (n,), the square roots of their visible areas, in image widths.
    """

    masks: np.ndarray
    whole: np.ndarray
    shares: np.ndarray
    centres: list[tuple[float, float] | None]
    sizes: np.ndarray


def truth(scene: Scene) -> Truth:
    whole = np.stack([coverage(thing) > 0.5 for thing in scene.things])
    masks, nearer = whole.copy(), np.zeros((SIZE, SIZE), bool)
    for number in reversed(scene.back_to_front):
        masks[number] &= ~nearer
        nearer |= whole[number]
    complete = np.array([_area(thing) for thing in scene.things])
    areas = masks.sum(axis=(1, 2))
    return Truth(masks, whole, np.minimum(areas / complete, 1), [centre_of(m) for m in masks], np.sqrt(areas) / SIZE)


def centre_of(mask: np.ndarray) -> tuple[float, float] | None:
    """The centroid of a mask (128, 128) in image widths; None if it is empty."""
    if not mask.any():
        return None
    rows, columns = np.nonzero(mask)
    return (columns.mean().item() + 0.5) / SIZE, (rows.mean().item() + 0.5) / SIZE


def coverage(thing: Thing) -> np.ndarray:
    fine = np.zeros((SIZE * FINER, SIZE * FINER), np.uint8)
    for part in parts(thing):
        cv2.fillPoly(fine, [_fixed(part.outline)], 255, cv2.LINE_8, 4)
    return cv2.resize(fine, (SIZE, SIZE), interpolation=cv2.INTER_AREA) / 255


def _area(thing: Thing) -> int:
    """The area of a thing in pixels, where all of it is in the frame."""
    moved = replace(thing, centre=(0.5, 0.5))
    return max(int((coverage(moved) > 0.5).sum()), 1)


def depth(scene: Scene) -> np.ndarray:
    """Inverse depth (128, 128), uint8, as MiDaS predicts it: near is bright; linear in the row of the ground."""
    rows = (np.arange(SIZE) + 0.5) / SIZE
    image = np.repeat(_nearness(rows, scene)[:, None], SIZE, axis=1).astype(np.float32)
    for number in scene.back_to_front:
        cover = coverage(scene.things[number])
        image += (_nearness(scene.things[number].foot, scene) - image) * cover
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def _nearness(row, scene: Scene):
    return 255 * np.clip((row + scene.camera[1] - HORIZON) / (1.06 - HORIZON), 0, 1)


def poses(scene: Scene) -> np.ndarray:
    """The skeletons of the figures on black (128, 128, 3), uint8, as OpenPose's preprocessor draws them."""
    fine = np.zeros((SIZE * FINER, SIZE * FINER, 3), np.uint8)
    for number in scene.back_to_front:
        if scene.things[number].is_figure:
            for outline, colour in dancer.skeleton(joints(scene.things[number]), stick=1.1 / SIZE):
                cv2.fillPoly(fine, [_fixed(outline)], colour, cv2.LINE_8, 4)
    return cv2.resize(fine, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def flow(scene: Scene, after: Scene) -> np.ndarray:
    """The optical flow (128, 128, 2) from one frame to the next, in pixels: where each visible point will be."""
    moved = SIZE * np.subtract(scene.camera, after.camera).astype(np.float32)  # the ground moves against the camera
    field = np.broadcast_to(moved, (SIZE, SIZE, 2)).copy()
    for number in scene.back_to_front:
        for part, later in zip(parts(scene.things[number]), parts(after.things[number]), strict=True):
            mask = np.zeros((SIZE, SIZE), np.uint8)
            cv2.fillPoly(mask, [_fixed(part.outline, 1)], 1, cv2.LINE_8, 4)
            rows, columns = np.nonzero(mask)
            points = np.stack([columns + 0.5, rows + 0.5], axis=1) / SIZE
            field[rows, columns] = SIZE * part.flow_to(later, points)
    return field
