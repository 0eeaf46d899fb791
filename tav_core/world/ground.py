"""Procedural grounds, larger than the frame: what the camera sees of a sky and an earth with random texture."""

from functools import lru_cache

import cv2
import numpy as np

from .scene import HORIZON, PAPER, SIZE, Scene

CELLS = 48  # of the noise's lattice, before it repeats
OUTLINE = (16, 16, 18)
CREAM = (244, 236, 216)

# Colours of the sky, at its top and at the horizon; of the earth, at the horizon and at the bottom. All are muted, so
# that they differ from the colours of things.
PALETTE = {
    "grass": (((128, 168, 204), (186, 206, 214)), ((124, 142, 104), (92, 116, 78))),
    "beach": (((140, 178, 206), (212, 212, 200)), ((218, 200, 160), (196, 172, 128))),
    "sea": (((150, 172, 192), (206, 212, 212)), ((88, 132, 150), (52, 92, 114))),
    "road": (((172, 180, 186), (208, 208, 204)), ((122, 120, 122), (84, 84, 88))),
    "snow": (((146, 164, 184), (196, 204, 210)), ((236, 240, 244), (206, 214, 224))),
    "moon": (((22, 22, 40), (46, 46, 66)), ((158, 156, 152), (112, 110, 108))),
}
ROUGH = {"grass": 13, "beach": 9, "sea": 10, "road": 8, "snow": 7, "moon": 12}  # of 255: the texture's deviation


def draw_ground(scene: Scene) -> np.ndarray:
    """What `scene`'s camera sees behind its things, (128, 128, 3) float32 in 0..255, before light and night."""
    noise, flat = _Noise(scene.seed), scene.style == "cartoon"
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32) + 0.5
    x, y = columns / SIZE + scene.camera[0], rows / SIZE + scene.camera[1]
    (top, low), (near, bottom) = (np.array(pair, np.float32) for pair in PALETTE[scene.ground])
    up = np.clip(y / HORIZON, 0, 1)[..., None]
    image = (top + low) / 2 + 0 * up if flat else top + (low - top) * up
    image = _clouds(image, scene.ground, x, y, noise, flat)
    image = _skyline(image, scene.ground, x, y, noise, flat)
    down = np.clip((y - HORIZON) / (1 - HORIZON), 0, 1)
    earth = (near + bottom) / 2 + 0 * down[..., None] if flat else near + (bottom - near) * down[..., None]
    earth = _earth(earth, scene.ground, x, y, down, noise, flat)
    image = _over(image, earth, _edge(y - HORIZON))
    return image + 0.5 * (np.float32(CREAM) - image) if scene.style == PAPER else image


def _clouds(image, ground: str, x, y, noise, flat: bool) -> np.ndarray:
    if ground == "moon":
        stars = np.clip(noise(x * 26, y * 26, 5) - 2.0, 0, 1)
        return image + 120 * stars[..., None]
    thick = noise(x * 2.2, y * 5, 1) + 0.35 * noise(x * 6, y * 11, 2) - 0.35
    cover = np.clip(thick * (6 if flat else 0.9), 0, 1) * (0.8 if flat else 0.75)
    return _over(image, np.float32((236, 238, 240)), cover)


def _skyline(image, ground: str, x, y, noise, flat: bool) -> np.ndarray:
    """What stands at the horizon: hills, a bay, trees, mountains."""
    colour, height, steep = {
        "grass": ((118, 140, 122), 0.1, 1.6),
        "beach": ((104, 148, 160), 0.055, 0.0),
        "sea": ((150, 158, 152), 0.035, 1.2),
        "road": ((104, 118, 92), 0.08, 3.5),
        "snow": ((130, 146, 166), 0.15, 2.2),
        "moon": ((96, 94, 96), 0.06, 1.8),
    }[ground]
    crest = HORIZON - height * (1 + 0.9 * noise(x * steep, 0 * x, 3)) if steep else HORIZON - height + 0 * x
    image = _over(image, np.float32(colour), _edge(y - crest))
    if flat:
        for line in (crest, HORIZON + 0 * crest):
            image = _over(image, np.float32(OUTLINE), np.clip(1.3 - np.abs(y - line) * SIZE, 0, 1))
    return image


def _earth(earth, ground: str, x, y, down, noise, flat: bool) -> np.ndarray:
    depth = down + 0.25  # texture is finer towards the horizon
    across, away = x / depth, np.log(depth)
    if not flat:
        rough = noise(across * 2.5, away * 7, 6) + 0.6 * noise(across * 7, away * 18, 7)
        earth = earth + ROUGH[ground] * rough[..., None]
        if ground == "grass":
            earth = earth + np.float32((8, 5, -1)) * noise(x * 3, y * 6, 8)[..., None]
    if ground == "sea":
        crests = np.clip(np.sin(34 * away + 2.4 * noise(across * 2, away * 3, 9)) - 0.55, 0, 1)
        earth = _over(earth, np.float32((176, 196, 200)), crests * (0.9 if flat else 0.7))
    if ground == "road":
        dash = _edge(0.3 - np.abs((x * 2.2) % 1 - 0.5), 1 / 2.2) * _edge(0.018 - np.abs(y - 0.76))
        earth = _over(earth, np.float32((222, 220, 212)), dash)
        earth = _over(earth, np.float32((118, 130, 100)), _edge(HORIZON + 0.06 - y))
    if ground == "moon":
        for hole_x, hole_y, size in noise.spots(7):
            distance = np.hypot((x - hole_x) / size, (y - hole_y) / (0.4 * size))
            earth = _over(earth, np.float32((92, 90, 92)), _edge(1 - distance, size))
    if ground == "beach":
        foam = HORIZON + 0.06 + 0.012 * noise(x * 3, 0 * x, 4)
        earth = _over(earth, np.float32((104, 148, 160)), _edge(foam - y))
        earth = _over(earth, np.float32((232, 234, 230)), np.clip(1.6 - np.abs(y - foam) * SIZE, 0, 1))
    return earth


def _edge(inside: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Coverage of a region: `inside` is the distance to its edge in units of `scale` image widths."""
    return np.clip(inside * scale * SIZE + 0.5, 0, 1)


def _over(image: np.ndarray, colour: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return image + (colour - image) * cover[..., None]


class _Noise:
    """Smooth noise of deviation about 1 with a lattice for each channel, all determined by the seed."""

    def __init__(self, seed: int):
        self.lattices, self.seed = _lattices(seed), seed

    def __call__(self, x: np.ndarray, y: np.ndarray, channel: int) -> np.ndarray:
        places = (np.asarray(part, np.float32) % CELLS + 2 for part in (x, y))
        return cv2.remap(self.lattices[channel], *places, cv2.INTER_CUBIC)

    def spots(self, count: int) -> np.ndarray:
        """Random ellipses on the earth, (n, 3): x, y and half width."""
        rng = np.random.default_rng((self.seed, 1))
        return rng.uniform((-0.7, HORIZON + 0.08, 0.05), (1.7, 1.05, 0.12), (2 * count, 3))


@lru_cache(maxsize=16)
def _lattices(seed: int) -> list[np.ndarray]:
    values = np.random.default_rng((seed, 0)).standard_normal((10, CELLS, CELLS)).astype(np.float32)
    return list(np.pad(values, ((0, 0), (2, 3), (2, 3)), mode="wrap") * 1.25)
