"""The drawn world of the miniature: one object in front of one ground, in one style, with known ground truth."""

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np

SIZE = 128  # pixels: a latent of 16 x 16 behind a VAE of factor 8
FINER = 4  # supersampling factor, for smooth edges

COLOURS = {
    "red": (222, 42, 42),
    "orange": (244, 140, 28),
    "yellow": (248, 224, 40),
    "green": (20, 118, 58),
    "blue": (36, 64, 224),
    "purple": (138, 48, 190),
    "pink": (252, 128, 190),
    "brown": (112, 64, 34),
}
SHAPES = ("ball", "box", "triangle", "star")
GROUNDS = ("grass", "beach", "sea", "road", "snow", "moon")
STYLES = {"plain": "", "cartoon": ", cartoon style", "night": ", at night"}
NIGHT = np.array((0.50, 0.52, 0.68), np.float32)  # factors of red, green and blue
MOTIONS = ("line", "arc", "bounce", "circle")
SPEEDS = {"slow": 0.5, "fast": 1.0}

HORIZON = 0.55
RIM = 7  # pixels of white around every object, so that inverted noise holds a trace common to all (see benchmarks)
RADII = (0.105, 0.165)  # not in the captions


@dataclass(frozen=True)
class Scene:
    """The content of an image.

    The object is a sticker with a white rim and, in cartoon style, a black outline.
    centre: its centroid (x, y); radius: that of a ball of the same area; both in image widths.
    striped: white bands across the object, called "sks" in captions; the miniature draws them with its LoRA.
    """

    colour: str
    shape: str
    ground: str
    style: str = "plain"
    centre: tuple[float, float] = (0.5, 0.5)
    radius: float = 0.135
    striped: bool = False

    @property
    def caption(self) -> str:
        name = f"sks {self.shape}" if self.striped else self.shape
        return f"a {self.colour} {name} is moving on the {self.ground}{STYLES[self.style]}"


def random_scene(rng: np.random.Generator, **known) -> Scene:
    """A random scene, except for the fields in `known`; the tips of a star or triangle may lie outside the image."""
    radius = known.pop("radius", rng.uniform(*RADII))
    sampled = {
        "colour": rng.choice(list(COLOURS)).item(),
        "shape": rng.choice(SHAPES).item(),
        "ground": rng.choice(GROUNDS).item(),
        "style": rng.choice(list(STYLES), p=(0.5, 0.25, 0.25)).item(),
        "centre": tuple(rng.uniform(0.2, 0.8, 2).tolist()),
    }
    return Scene(radius=radius, **(sampled | known))


def clip_scenes(scene: Scene, motion: str, *, speed: str = "fast", num_frames: int = 8) -> list[Scene]:
    """The scene's object along one of MOTIONS, frame by frame; `scene.centre` is ignored."""
    times = np.linspace(-0.5, 0.5, num_frames) * SPEEDS[speed]
    return [replace(scene, centre=_centre(motion, time)) for time in times]


def _centre(motion: str, time: float) -> tuple[float, float]:
    x = 0.5 + 0.56 * time
    if motion == "line":
        return x, 0.62 - 0.3 * time
    if motion == "arc":
        return x, 0.3 + 1.6 * time**2
    if motion == "bounce":
        return x, 0.7 - 0.4 * abs(np.cos(2 * np.pi * time)).item()
    if motion == "circle":
        return 0.5 + 0.24 * np.cos(5.5 * time).item(), 0.5 + 0.24 * np.sin(5.5 * time).item()
    raise ValueError(f"Unknown motion {motion!r}; choose one of {', '.join(MOTIONS)}.")


def draw_clip(scenes: list[Scene]) -> np.ndarray:
    """Draws a clip (f, 128, 128, 3), uint8 RGB."""
    return np.stack([draw(scene) for scene in scenes])


def draw(scene: Scene) -> np.ndarray:
    """Draws an image (128, 128, 3), uint8 RGB."""
    image = _fine_background(scene.ground, scene.style).copy()
    _draw_object(image, scene)
    image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    if scene.style == "night":
        image = image * NIGHT
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


@cache
def background(ground: str, style: str) -> np.ndarray:
    """What `draw` gives without an object, (128, 128, 3) uint8. Cached: do not write to it."""
    nowhere = Scene("red", "ball", ground, style, centre=(-1, -1))
    return draw(nowhere)


def shape_mask(shape: str, centre: tuple[float, float], radius: float, size: int = SIZE) -> np.ndarray:
    """The mask of a shape, (size, size) in 0..1; all shapes of one radius cover the same area."""
    mask = np.zeros((size * FINER, size * FINER), np.uint8)
    _fill(mask, _outline(shape, centre, radius), 255)
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


# Object


def _outline(shape: str, centre: tuple[float, float], radius: float) -> np.ndarray:
    """The corners (n, 2) of a shape with the area of a ball of `radius`, in image widths."""
    if shape == "ball":
        angles, lengths = np.linspace(0, 2 * np.pi, 90, endpoint=False), 1.0
    elif shape == "box":
        angles, lengths = np.pi / 4 + np.arange(4) * np.pi / 2, 1.0
    elif shape == "triangle":
        angles, lengths = -np.pi / 2 + np.arange(3) * 2 * np.pi / 3, 1.0
    else:
        angles, lengths = -np.pi / 2 + np.arange(10) * np.pi / 5, np.where(np.arange(10) % 2, 0.47, 1.0)
    corners = np.stack([lengths * np.cos(angles), lengths * np.sin(angles)], axis=1)
    area = cv2.contourArea(corners.astype(np.float32))
    return np.array(centre) + corners * radius * np.sqrt(np.pi / area)


def _draw_object(image: np.ndarray, scene: Scene) -> None:
    outline = _outline(scene.shape, scene.centre, scene.radius)
    mask = np.zeros(image.shape[:2], np.uint8)
    _fill(mask, outline, 255)
    x, y, width, height = cv2.boundingRect(mask)
    if not width:
        return
    window = np.s_[y : y + height, x : x + width]
    rows, columns = np.mgrid[window] / len(image)
    shade = np.zeros((height, width)) if scene.style == "cartoon" else _shade(rows, columns, scene)
    colour = np.array(COLOURS[scene.colour], np.float32) * (1 + np.minimum(shade, 0))[..., None]
    colour += (255 - colour) * np.maximum(shade, 0)[..., None]
    if scene.striped:
        bands = np.abs((rows - scene.centre[1]) / scene.radius)
        colour[(bands > 0.18) & (bands < 0.55)] = 250
    inside = mask[window] > 0
    cv2.polylines(image, [_fixed(image, outline)], True, (252, 252, 252), 2 * RIM * FINER, cv2.LINE_AA, 4)
    image[window][inside] = colour[inside]
    if scene.style == "cartoon":
        cv2.polylines(image, [_fixed(image, outline)], True, (20, 20, 20), 3 * FINER, cv2.LINE_AA, 4)


def _shade(rows: np.ndarray, columns: np.ndarray, scene: Scene) -> np.ndarray:
    """Shading, lit from the upper left: above 0 towards white, below 0 towards black."""
    across = ((columns - scene.centre[0]) + (rows - scene.centre[1])) / scene.radius
    highlight = np.exp(-4 * ((columns - scene.centre[0]) / scene.radius + 0.4) ** 2)
    highlight *= np.exp(-4 * ((rows - scene.centre[1]) / scene.radius + 0.4) ** 2)
    return 0.3 * highlight - 0.15 * np.clip(across + 0.3, 0, 1.5)


# Ground


@cache
def _fine_background(ground: str, style: str) -> np.ndarray:
    fine, flat = SIZE * FINER, style == "cartoon"
    image = np.zeros((fine, fine, 3), np.float32)
    sky, earth, decorate = {
        "grass": (((104, 172, 236), (172, 212, 244)), ((124, 186, 88), (88, 152, 64)), _grass),
        "beach": (((92, 176, 228), (222, 206, 176)), ((226, 196, 134), (202, 166, 104)), _beach),
        "sea": (((120, 184, 230), (190, 216, 236)), ((46, 128, 180), (14, 78, 134)), _sea),
        "road": (((140, 164, 188), (190, 200, 210)), ((112, 114, 122), (82, 84, 92)), _road),
        "snow": (((120, 146, 184), (172, 192, 216)), ((206, 217, 235), (164, 184, 213)), _snow),
        "moon": (((12, 12, 36), (36, 36, 74)), ((168, 168, 174), (124, 124, 132)), _moon),
    }[ground]
    horizon = round(HORIZON * fine)
    image[:horizon], image[horizon:] = _gradient(sky, horizon, flat), _gradient(earth, fine - horizon, flat)
    decorate(image)
    if flat:
        cv2.line(image, (0, horizon), (fine, horizon), (20, 20, 20), 2 * FINER)
    if style == "night" and ground != "moon":
        _disc(image, (0.82, 0.15), 0.075, tuple((np.array((236, 232, 206)) / NIGHT).tolist()))
    return image


def _gradient(ends: tuple, rows: int, flat: bool) -> np.ndarray:
    top, bottom = np.array(ends, np.float32)
    along = np.full(rows, 0.5) if flat else np.linspace(0, 1, rows)
    return (top + (bottom - top) * along[:, None])[:, None].astype(np.float32)


def _grass(image: np.ndarray) -> None:
    for x, y in ((0.2, 0.14), (0.68, 0.22)):
        for dx, dy, radius in ((-0.07, 0.01, 0.04), (0, -0.01, 0.06), (0.07, 0.01, 0.045)):
            _disc(image, (x + dx, y + dy), radius, (250, 252, 254))
    for x, y in ((0.1, 0.7), (0.35, 0.64), (0.6, 0.76), (0.87, 0.67), (0.22, 0.9), (0.75, 0.92), (0.48, 0.88)):
        _stroke(image, [(x - 0.03, y - 0.04), (x, y), (x + 0.03, y - 0.04)], (70, 130, 52))


def _beach(image: np.ndarray) -> None:
    _fill(image, np.array(((0, 0.44), (1, 0.44), (1, 0.55), (0, 0.57))), (58, 158, 196))
    _disc(image, (0.82, 0.15), 0.07, (255, 244, 190))
    for x, y in ((0.15, 0.72), (0.44, 0.85), (0.8, 0.7), (0.66, 0.93), (0.27, 0.95)):
        _disc(image, (x, y), 0.014, (196, 160, 110))


def _sea(image: np.ndarray) -> None:
    _fill(image, np.array(((0.62, 0.42), (0.62, 0.3), (0.72, 0.42))), (244, 244, 240))
    _fill(image, np.array(((0.56, 0.47), (0.74, 0.47), (0.7, 0.52), (0.6, 0.52))), (110, 84, 70))
    for x, y in ((0.12, 0.64), (0.5, 0.68), (0.84, 0.63), (0.3, 0.8), (0.7, 0.82), (0.1, 0.93), (0.52, 0.94)):
        wave = [(x - 0.07, y), (x - 0.035, y - 0.018), (x, y), (x + 0.035, y - 0.018), (x + 0.07, y)]
        _stroke(image, wave, (150, 200, 226))


def _road(image: np.ndarray) -> None:
    _fill(image, np.array(((0, 0.5), (1, 0.47), (1, 0.58), (0, 0.58))), (126, 160, 104))
    for x in (0.02, 0.28, 0.54, 0.8):
        _fill(image, np.array(((x, 0.77), (x + 0.14, 0.77), (x + 0.14, 0.805), (x, 0.805))), (238, 238, 232))


def _snow(image: np.ndarray) -> None:
    for x, size in ((0.12, 1.0), (0.26, 0.7), (0.86, 1.1)):
        for y in (0.5, 0.44, 0.38):
            half = (0.07 + 0.5 * (y - 0.44)) * size
            _fill(image, np.array(((x - half, y + 0.07), (x + half, y + 0.07), (x, y - 0.07))), (60, 96, 84))


def _moon(image: np.ndarray) -> None:
    for x, y in ((0.1, 0.1), (0.3, 0.22), (0.45, 0.08), (0.62, 0.3), (0.2, 0.42), (0.9, 0.4), (0.55, 0.45)):
        _disc(image, (x, y), 0.011, (244, 244, 224))
    _disc(image, (0.82, 0.15), 0.08, (92, 150, 214))
    for x, y, radius in ((0.2, 0.68, 0.07), (0.62, 0.64, 0.05), (0.8, 0.84, 0.09), (0.4, 0.88, 0.06)):
        _fill(image, np.array((x, y)) + _outline("ball", (0, 0), radius) * (1, 0.4), (112, 112, 120))


# Drawing on the supersampled image, in image widths


def _fixed(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(points) * len(image) * 16).astype(np.int32)  # OpenCV's fixed point, shift 4


def _fill(image: np.ndarray, corners: np.ndarray, colour) -> None:
    cv2.fillPoly(image, [_fixed(image, corners)], colour, cv2.LINE_AA if image.ndim == 3 else cv2.LINE_8, 4)


def _disc(image: np.ndarray, centre: tuple[float, float], radius: float, colour: tuple) -> None:
    _fill(image, _outline("ball", centre, radius), colour)


def _stroke(image: np.ndarray, points: list, colour: tuple) -> None:
    cv2.polylines(image, [_fixed(image, points)], False, colour, 2 * FINER, cv2.LINE_AA, 4)
