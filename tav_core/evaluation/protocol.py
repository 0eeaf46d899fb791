"""What the method is measured on: clips of the drawn world, half of them held out, with edits of four kinds."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from ..demo.world import COLOURS, GROUNDS, MOTIONS, SHAPES, SPEEDS, Scene, clip_scenes

SEED = 1305
EDITED_STYLES = ("cartoon", "night")
ATTRIBUTES = ("colour", "shape", "ground", "style")
# What each of the paper's kinds of edit changes; all other attributes should stay as they are.
CHANGES = {"object": ("colour", "shape"), "background": ("ground",), "attribute": ("colour",), "style": ("style",)}


@dataclass(frozen=True)
class WorldEdit:
    """An edit of a clip: its frames should show `scene`, wherever the object is."""

    kind: str
    scene: Scene

    @property
    def prompt(self) -> str:
        return self.scene.caption


@dataclass(frozen=True)
class WorldClip:
    """A clip and its edits. `number` is unique to it, and seeds its random noise."""

    number: int
    scene: Scene
    motion: str
    speed: str
    edits: tuple[WorldEdit, ...]

    @property
    def name(self) -> str:
        return f"{self.motion}-{self.speed}-{self.scene.colour}-{self.scene.shape}-{self.scene.ground}"

    @property
    def prompt(self) -> str:
        return self.scene.caption

    def scenes(self, num_frames: int) -> list[Scene]:
        return clip_scenes(self.scene, self.motion, speed=self.speed, num_frames=num_frames)


def clips_to_choose_by() -> list[WorldClip]:
    """The 8 clips, one of each motion and speed, for choosing settings."""
    return _clips(0)


def clips_to_report() -> list[WorldClip]:
    """The 8 held-out clips, one of each motion and speed, for reporting results."""
    return _clips(1)


def _clips(half: int) -> list[WorldClip]:
    """8 clips: neighbours move differently, and the objects have each colour once and each shape twice."""
    rng = np.random.default_rng((SEED, half))
    courses = list(product(reversed(SPEEDS), MOTIONS))  # fast ones first
    shuffled = [_evenly(rng, names, len(courses)) for names in (COLOURS, SHAPES, GROUNDS, EDITED_STYLES)]
    clips = []
    for number, ((speed, motion), colour, shape, ground, style) in enumerate(zip(courses, *shuffled, strict=True)):
        scene = Scene(colour, shape, ground)
        values = {"colour": COLOURS, "shape": SHAPES, "ground": GROUNDS, "style": [style]}
        edits = []
        for kind, names in CHANGES.items():
            others = {name: [value for value in values[name] if value != getattr(scene, name)] for name in names}
            change = {name: rng.choice(choices).item() for name, choices in others.items()}
            edits.append(WorldEdit(kind, replace(scene, **change)))
        clips.append(WorldClip(half * len(courses) + number, scene, motion, speed, tuple(edits)))
    return clips


def _evenly(rng: np.random.Generator, names, count: int) -> list[str]:
    """`count` of the names in random order, each equally often, give or take one."""
    names = list(names)
    return rng.permutation([names[i % len(names)] for i in range(count)]).tolist()
