"""What the method is measured on: clips of the drawn world, half of them held out, with edits of four kinds."""

from dataclasses import dataclass, replace

import numpy as np

from .clips import PAN, Clip
from .judge import CHANGES, Edit
from .scene import COLOURS, FIGURES, GROUNDS, SHAPES, Scene, Thing, random_light, standing

SEED = 1307  # the first from 1305 on with which no clip is in both halves
EDITED_STYLES = ("cartoon", "night")


@dataclass(frozen=True)
class Plan:
    """What a clip is to show. Each thing is an action, for a figure, or "" for a shape; the first is the edited one.

    centres: of the things' paths, (x, y); a figure's y follows from where it stands.
    hard: whether something leaves the frame, hides something else, changes its size or is one of two.
    """

    name: str
    things: tuple[str, ...]
    paths: tuple[str, ...]
    centres: tuple[tuple[float, float], ...] = ((0.5, 0.48),)
    pan: float = 0.0
    speed: float = 1.0
    dimming: float = 0.0
    hard: bool = False


PLANS = (
    Plan("line", ("",), ("line",)),
    Plan("arc", ("",), ("arc",)),
    Plan("bounce", ("",), ("bounce",), pan=PAN),
    Plan("walk", ("walking",), ("line",)),
    Plan("jump", ("jumping",), ("still",), ((0.45, 0),)),
    Plan("wave", ("waving",), ("still",), ((0.55, 0),), pan=PAN),
    Plan("leave", ("",), ("leave",), ((0.8, 0.45),), hard=True),
    Plan("approach", ("",), ("approach",), ((0.5, 0.5),), dimming=0.15, hard=True),
    Plan("circle", ("",), ("circle",), pan=PAN, hard=True),
    Plan("behind", ("", ""), ("line", "still"), ((0.5, 0.45), (0.52, 0.55)), hard=True),
    Plan("two", ("", ""), ("line", "arc"), ((0.5, 0.68), (0.5, 0.3)), pan=-PAN, hard=True),
    Plan("walk-past", ("walking", ""), ("line", "still"), ((0.5, 0), (0.6, 0.55)), hard=True),
)


@dataclass(frozen=True)
class WorldClip:
    """A clip, its edits and its plan. `number` is unique to it, and seeds its random noise."""

    number: int
    plan: Plan
    clip: Clip
    edits: tuple[Edit, ...]

    @property
    def name(self) -> str:
        thing = self.clip.scene.things[0]
        return f"{self.plan.name}-{thing.colour}-{thing.kind}-{self.clip.scene.ground}"

    @property
    def prompt(self) -> str:
        return self.clip.scene.caption

    def scenes(self, num_frames: int) -> list[Scene]:
        return self.clip.scenes(num_frames)


def clips_to_choose_by() -> list[WorldClip]:
    """The 12 clips, one of each plan, for choosing settings."""
    return _clips(0)


def clips_to_report() -> list[WorldClip]:
    """The 12 held-out clips, one of each plan, for reporting results."""
    return _clips(1)


def further_clips(number: int) -> list[WorldClip]:
    """12 other clips, one of each plan, for each number from 2 on."""
    return _clips(number)


def _clips(half: int) -> list[WorldClip]:
    """12 clips, of which each ground occurs twice and each kind and colour as evenly as can be."""
    rng, count = np.random.default_rng((SEED, half)), len(PLANS)
    colours, shapes, figures, grounds, styles = (
        _evenly(rng, names, count) for names in (COLOURS, SHAPES, FIGURES, GROUNDS, EDITED_STYLES)
    )
    clips = []
    for number, plan in enumerate(PLANS):
        kinds = [figures[number] if action else shapes[number] for action in plan.things[:1]]
        kinds += [_other(rng, SHAPES, kinds) for _ in plan.things[1:]]
        own = [colours[number]]
        own += [_other(rng, COLOURS, own) for _ in plan.things[1:]]
        pairs = zip(kinds, own, plan.things, plan.centres, strict=True)
        things = tuple(_thing(rng, *pair, near=not index) for index, pair in enumerate(pairs))
        if plan.name == "behind":  # what is edited
            things = tuple(replace(thing, foot=foot) for thing, foot in zip(things, (0.78, 0.9), strict=True))
        # a clip that runs backwards enters where others leave
        speed = plan.speed * rng.choice((-1, 1)).item()
        camera = (rng.uniform(-0.2, 0.2), rng.uniform(-0.03, 0.03))
        scene = Scene(things, grounds[number], "plain", camera, random_light(rng), int(rng.integers(2**31)))
        clip = Clip(scene, plan.paths, speed, plan.pan, plan.dimming)
        clips.append(WorldClip(half * count + number, plan, clip, _edits(rng, clip, styles[number])))
    return clips


def _thing(rng: np.random.Generator, kind: str, colour: str, action: str, centre, *, near: bool) -> Thing:
    radius, foot = rng.uniform(0.115, 0.145), 0.9 if near else 0.82
    if action:
        fields = {"action": action, "phase": rng.uniform(0.2, 0.8), "facing": 1}
        return Thing(kind, colour, (centre[0], standing(foot, radius)), radius, foot, **fields)
    return Thing(kind, colour, centre, radius, foot)


def _edits(rng: np.random.Generator, clip: Clip, style: str) -> tuple[Edit, ...]:
    """An edit of each kind; what changes gets another value, which none of the things has."""
    scene, thing = clip.scene, clip.scene.things[0]
    taken = [each.colour for each in scene.things], [each.kind for each in scene.things]
    kinds = FIGURES if thing.is_figure else SHAPES
    targets = {
        "object": scene.with_thing(0, colour=_other(rng, COLOURS, taken[0]), kind=_other(rng, kinds, taken[1])),
        "background": replace(scene, ground=_other(rng, GROUNDS, [scene.ground])),
        "attribute": scene.with_thing(0, colour=_other(rng, COLOURS, taken[0])),
        "style": replace(scene, style=style),
    }
    return tuple(Edit(kind, clip, replace(clip, scene=targets[kind])) for kind in CHANGES)


def _other(rng: np.random.Generator, names, taken) -> str:
    return rng.choice([name for name in names if name not in taken]).item()


def _evenly(rng: np.random.Generator, names, count: int) -> list[str]:
    """`count` of the names in random order, each equally often, give or take one."""
    names = list(names)
    return rng.permutation([names[i % len(names)] for i in range(count)]).tolist()
