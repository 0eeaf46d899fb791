"""What the claims are measured on: clips of the drawn world, half of them held back, and edits of four kinds."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from ..demo.world import COLOURS, GROUNDS, MOTIONS, SHAPES, SPEEDS, Scene, clip_scenes

SEED = 1305
EDITED_STYLES = ("cartoon", "night")
FACTS = ("colour", "shape", "ground", "style")
# What each kind of edit of the paper changes; all other facts should stay as they are.
CHANGES = {"object": ("colour", "shape"), "background": ("ground",), "attribute": ("colour",), "style": ("style",)}


@dataclass(frozen=True)
class WorldEdit:
    """One edit: `scene` is what its frames should show, wherever the object is."""

    kind: str
    scene: Scene

    @property
    def prompt(self) -> str:
        return self.scene.caption


@dataclass(frozen=True)
class WorldClip:
    """A clip and its edits. `number` tells it from all others, and gives it randomness of its own."""

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
    """The 8 clips, of each motion and speed, by which settings may be chosen."""
    return _clips(0)


def clips_to_report() -> list[WorldClip]:
    """The 8 other clips, of each motion and speed, that nothing was chosen by."""
    return _clips(1)


def _clips(half: int) -> list[WorldClip]:
    """Neighbouring clips move differently, and the objects use each colour once and each shape twice."""
    rng = np.random.default_rng((SEED, half))
    courses = list(product(reversed(SPEEDS), MOTIONS))  # the fast ones first
    dealt = [_dealt(rng, names, len(courses)) for names in (COLOURS, SHAPES, GROUNDS, EDITED_STYLES)]
    clips = []
    for number, ((speed, motion), colour, shape, ground, style) in enumerate(zip(courses, *dealt, strict=True)):
        scene = Scene(colour, shape, ground)
        values = {"colour": COLOURS, "shape": SHAPES, "ground": GROUNDS, "style": [style]}
        edits = []
        for kind, facts in CHANGES.items():
            others = {fact: [value for value in values[fact] if value != getattr(scene, fact)] for fact in facts}
            change = {fact: rng.choice(choices).item() for fact, choices in others.items()}
            edits.append(WorldEdit(kind, replace(scene, **change)))
        clips.append(WorldClip(half * len(courses) + number, scene, motion, speed, tuple(edits)))
    return clips


def _dealt(rng: np.random.Generator, names, count: int) -> list[str]:
    """`count` of the names in random order, each as often as the others, or once more."""
    names = list(names)
    return rng.permutation([names[i % len(names)] for i in range(count)]).tolist()
