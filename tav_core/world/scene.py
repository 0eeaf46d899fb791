"""What an image of the drawn world shows: things in front of a ground, in a light, seen by a camera.

Positions and lengths are in image widths, (0, 0) at the upper left. The world resembles what people film: textured
grounds that differ from clip to clip and are larger than the frame, a camera that pans, light and shadow, things that
enter, leave and pass behind one another, and figures whose limbs move.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

SIZE = 128  # pixels: a latent of 16 x 16 behind a VAE of factor 8

COLOURS = {
    "red": (216, 36, 40),
    "orange": (246, 132, 20),
    "yellow": (250, 222, 30),
    "green": (24, 160, 62),
    "blue": (34, 70, 228),
    "purple": (134, 40, 190),
    "pink": (252, 108, 190),
}
SHAPES = ("ball", "box", "triangle", "star")
FIGURES = ("man", "robot", "bear")
ACTIONS = ("walking", "jumping", "waving")
GROUNDS = ("grass", "beach", "sea", "road", "snow", "moon")
STYLES = {"plain": "", "cartoon": ", cartoon style", "night": ", at night"}
PAPER = "paper"  # the style of the sibling checkpoint, which no caption mentions
SIZES = {"small": (0.085, 0.105), "large": (0.155, 0.18)}
RADII = (0.085, 0.18)  # of things whose size the caption does not mention
FIGURE = 0.85  # a figure's unit of length, relative to the radius of a thing of its size
HORIZON = 0.5


class Light(NamedTuple):
    """direction: from -1 (left) to 1 (right); brightness: 0.85..1.1; warmth: from -1 (blue) to 1 (yellow)."""

    direction: float = -0.6
    brightness: float = 1.0
    warmth: float = 0.0


@dataclass(frozen=True)
class Thing:
    """One of SHAPES or FIGURES.

    centre: of a shape, its centroid; of a figure, the middle of its torso when it stands on its feet. It may lie
        outside the frame.
    radius: of a ball of the same size; a figure is about 3.3 of them high.
    foot: the row at which it stands on, or hovers above, the ground; of two things, the one with the larger is nearer.
    size: "small" or "large" where the caption says so, otherwise "".
    action, phase, facing: of a figure; phase 0..1 within one cycle, facing -1 (left) or 1 (right).
    striped: white bands across a shape, called "sks" in captions; the miniature draws them with its LoRA.
    """

    kind: str
    colour: str
    centre: tuple[float, float] = (0.5, 0.5)
    radius: float = 0.13
    foot: float = 0.8
    size: str = ""
    action: str = ""
    phase: float = 0.0
    facing: int = 1
    striped: bool = False

    @property
    def is_figure(self) -> bool:
        return self.kind in FIGURES

    @property
    def name(self) -> str:
        words = f"{self.size} {self.colour} {'sks ' if self.striped else ''}{self.kind}".split()
        return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


@dataclass(frozen=True)
class Scene:
    """An image. things: one or two, in the order of the caption.

    camera: how far it has panned, (right, down); by up to 0.6 and 0.06.
    seed: of the ground's texture, clouds, waves, dunes and stones.
    """

    things: tuple[Thing, ...]
    ground: str
    style: str = "plain"
    camera: tuple[float, float] = (0.0, 0.0)
    light: Light = field(default_factory=Light)
    seed: int = 0

    @property
    def caption(self) -> str:
        verbs = [thing.action or "moving" for thing in self.things]
        if len(set(verbs)) == 1:
            names = " and ".join(thing.name for thing in self.things)
            what = f"{names} {'is' if len(self.things) == 1 else 'are'} {verbs[0]}"
        else:
            what = " and ".join(f"{thing.name} is {verb}" for thing, verb in zip(self.things, verbs, strict=True))
        return f"{what} on the {self.ground}{STYLES.get(self.style, '')}"

    @property
    def back_to_front(self) -> list[int]:
        """The numbers of its things, the farthest first."""
        return sorted(range(len(self.things)), key=lambda number: self.things[number].foot)

    def with_thing(self, number: int, **changes) -> "Scene":
        """The scene with other values for one of its things."""
        things = list(self.things)
        things[number] = replace(things[number], **changes)
        return replace(self, things=tuple(things))


def random_scene(rng: np.random.Generator, **known) -> Scene:
    """A random scene with one or two things, of which one may be a figure, except for the fields in `known`."""
    count = 1 + (rng.random() < 0.4)
    colours = rng.permutation(list(COLOURS))[:count].tolist()
    figure = int(rng.integers(count)) if rng.random() < 0.45 else None
    kinds = rng.permutation(SHAPES)[:count].tolist()
    if figure is not None:
        kinds[figure] = rng.choice(FIGURES).item()
    things = [random_thing(rng, kind=kind, colour=colour) for kind, colour in zip(kinds, colours, strict=True)]
    while count == 2 and _hide_each_other(*things):
        things[1] = random_thing(rng, kind=kinds[1], colour=colours[1])
    sampled = {
        "things": tuple(things),
        "ground": rng.choice(GROUNDS).item(),
        "style": rng.choice(list(STYLES), p=(0.56, 0.22, 0.22)).item(),
        "camera": (rng.uniform(-0.6, 0.6), rng.uniform(-0.06, 0.06)),
        "light": random_light(rng),
        "seed": int(rng.integers(2**31)),
    }
    return Scene(**(sampled | known))


def _hide_each_other(first: Thing, second: Thing) -> bool:
    return np.hypot(*np.subtract(first.centre, second.centre)) < 0.7 * (first.radius + second.radius)


def random_light(rng: np.random.Generator) -> Light:
    return Light(rng.choice((-1, 1)).item() * rng.uniform(0.3, 1), rng.uniform(0.85, 1.1), rng.uniform(-1, 1))


def random_thing(rng: np.random.Generator, **known) -> Thing:
    """A random thing except for the fields in `known`, which must have `kind` and `colour`."""
    size = known.get("size", rng.choice(("", *SIZES), p=(0.6, 0.2, 0.2)).item())
    radius = rng.uniform(*SIZES.get(size, RADII))
    foot = rng.uniform(HORIZON + 0.12, 1.0)
    out = min(0.1, 0.5 * radius)  # so that enough of it is visible
    column = rng.uniform(-out, 1 + out) if rng.random() < 0.3 else rng.uniform(0.15, 0.85)
    centre = column, rng.uniform(0.12, foot - radius)
    fields = {"centre": centre, "radius": radius, "foot": foot, "size": size}
    if known["kind"] in FIGURES:
        fields["foot"] = rng.uniform(0.72, 1.0)
        fields["centre"] = centre[0], standing(fields["foot"], radius)
        phase = rng.uniform(0.2, 0.8) if (action := rng.choice(ACTIONS).item()) == "jumping" else rng.random()
        fields |= {"action": action, "phase": phase, "facing": rng.choice((-1, 1)).item()}
    return Thing(**(fields | known))


def standing(foot: float, radius: float) -> float:
    """The row of the centre of a figure that stands at the row `foot`."""
    return foot - 2.0 * FIGURE * radius
