"""The judge is given videos whose right score is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tav_core.world.clips import Clip
from tav_core.world.draw import draw_clip
from tav_core.world.judge import CHANGES, Edit, Judge
from tav_core.world.scene import Scene, Thing, standing

FRAMES = 8
JITTER = np.random.default_rng(0).normal(0, 3 / 128, (FRAMES, 2))  # of 3 pixels
ROBOT = Thing("robot", "red", (0.4, standing(0.9, 0.14)), 0.14, 0.9, action="walking", facing=1)
STAR = Thing("star", "yellow", (0.7, 0.45), 0.14, 0.8)
BALL, BOX = Thing("ball", "pink", (0.5, 0.42), 0.11, 0.8), Thing("box", "blue", (0.5, 0.55), 0.12, 0.9)
# At 0.6 of full speed, because DIS cannot follow a thing that moves by more than its size from frame to frame.
CLIPS = {
    "leaves": Clip(Scene((STAR,), "sea", seed=6), ("leave",), pan=0.3),
    "walks": Clip(Scene((ROBOT,), "beach", seed=3), ("line",)),
    "passes behind": Clip(Scene((BALL, BOX), "road", seed=8), ("through", "still"), speed=0.6),
}
TO = {"leaves": {"kind": "ball"}, "walks": {"kind": "bear"}, "passes behind": {"kind": "star"}}
# The right value of each figure, and from how far off it counts as worse than the ideal's own.
RIGHT = {
    "iou": (1, 0.03),
    "worst_iou": (1, 0.05),
    "size_ratio": (1, 0.05),
    "size_jump": (0, 0.03),
    "centre_error": (0, 0.3),
    "largest_centre_error": (0, 0.5),
    "jitter": (0, 0.5),
    "flow_error": (0, 0.2),
    "background_psnr": (100, 3),
    "other_iou": (1, 0.03),
    "other_psnr": (100, 3),
}


def video(scenes) -> torch.Tensor:
    return torch.from_numpy(draw_clip(scenes)).float() / 255


def edit_of(name: str, kind: str = "object") -> Edit:
    clip = CLIPS[name]
    scene = clip.scene
    target = {
        "object": lambda: scene.with_thing(0, colour="green", **TO[name]),
        "attribute": lambda: scene.with_thing(0, colour="green"),
        "background": lambda: replace(scene, ground="snow"),
        "style": lambda: replace(scene, style="cartoon"),
    }[kind]()
    return Edit(kind, clip, replace(clip, scene=target))


def fakes(judge: Judge) -> dict[str, torch.Tensor]:
    def changed(change) -> torch.Tensor:
        return video([scene.with_thing(0, **change(n, scene.things[0])) for n, scene in enumerate(judge.scenes)])

    def moved(thing: Thing, by) -> dict:
        return {"centre": (thing.centre[0] + by[0], thing.centre[1] + by[1])}

    return {
        "half the size": changed(lambda n, thing: {"radius": 0.5 * thing.radius}),
        "1.5 times the size": changed(lambda n, thing: {"radius": 1.5 * thing.radius}),
        "a size that changes": changed(lambda n, thing: {"radius": (1.15, 0.87)[n % 2] * thing.radius}),
        "12 pixels off": changed(lambda n, thing: moved(thing, (0, -12 / 128))),
        "jitter": changed(lambda n, thing: moved(thing, JITTER[n])),
        "another shape": changed(lambda n, thing: {"kind": "triangle", "action": ""}),
        "frozen": judge.ideal[3:4].expand(FRAMES, -1, -1, -1),
        "empty": changed(lambda n, thing: {"centre": (9, 0.5)}),
    }


# What each fake must be caught by. Elsewhere it may be as good as the ideal, or better than it should be.
CAUGHT_BY = {
    "half the size": ("iou", "worst_iou", "size_ratio"),
    "1.5 times the size": ("iou", "worst_iou", "size_ratio", "background_psnr"),
    "a size that changes": ("iou", "worst_iou", "size_jump"),
    "12 pixels off": ("iou", "worst_iou", "centre_error", "largest_centre_error", "background_psnr"),
    "jitter": ("iou", "worst_iou", "centre_error", "largest_centre_error", "jitter", "flow_error"),
    "another shape": ("iou", "worst_iou"),
    "frozen": ("iou", "worst_iou", "flow_error"),
    "empty": ("iou", "worst_iou", "size_ratio", "centre_error", "largest_centre_error", "jitter"),
}


@pytest.fixture(scope="module", params=CLIPS)
def judged(request) -> dict[str, dict[str, float]]:
    judge = Judge(edit_of(request.param), FRAMES)
    return {name: judge.figures(frames) for name, frames in ({"ideal": judge.ideal} | fakes(judge)).items()}


def worse(figure: str, value: float, ideal: float) -> bool:
    right, margin = RIGHT[figure]
    return abs(value - right) > abs(ideal - right) + margin


def test_the_ideal_is_right_in_every_figure(judged):
    ideal = judged["ideal"]
    assert (ideal["edit_right"], ideal["rest_kept"]) == (1, 1)
    assert ideal["iou"] > 0.94
    assert ideal["worst_iou"] > 0.88
    assert abs(ideal["size_ratio"] - 1) < 0.03
    assert ideal["size_jump"] < 0.05
    assert ideal["largest_centre_error"] < 1
    assert ideal["jitter"] < 0.5
    assert ideal["background_psnr"] == 100
    assert ideal.get("other_psnr", 100) == 100


@pytest.mark.parametrize("fake", CAUGHT_BY)
def test_every_fake_is_caught(judged, fake):
    missed = [name for name in CAUGHT_BY[fake] if not worse(name, judged[fake][name], judged["ideal"][name])]
    assert not missed, {name: (judged["ideal"][name], judged[fake][name]) for name in missed}


@pytest.mark.parametrize("figure", ["iou", "worst_iou", "size_ratio", "centre_error", "jitter"])
def test_no_fake_is_better_than_the_ideal(judged, figure):
    right, margin = RIGHT[figure]
    for fake, values in judged.items():
        if (fake, figure) in {("frozen", "size_ratio"), ("frozen", "jitter")}:  # what a frozen picture is good at
            continue
        assert abs(values[figure] - right) > abs(judged["ideal"][figure] - right) - margin, fake


def test_a_fake_that_fools_the_figures_of_the_literature_does_not_fool_these():
    """A frozen picture has no warp error; half the size, 12 pixels off, correlates with the path as the ideal does."""
    judge = Judge(edit_of("walks"), FRAMES)
    ideal, videos = judge.figures(judge.ideal), fakes(judge)
    frozen, small, off = (judge.figures(videos[name]) for name in ("frozen", "half the size", "12 pixels off"))
    assert frozen["warp_error"] <= ideal["warp_error"]
    assert min(small["trajectory_correlation"], off["trajectory_correlation"]) > 0.99
    assert max(frozen["iou"], small["iou"], off["iou"]) < 0.6 * ideal["iou"]


@pytest.mark.parametrize("kind", CHANGES)
def test_the_source_is_not_the_edit(kind):
    edit = edit_of("passes behind", kind)
    figures = Judge(edit, FRAMES).figures(video(edit.source.scenes(FRAMES)))
    assert figures["edit_right"] < 0.6
    assert figures["rest_kept"] > 0.95
    assert ("background_psnr" in figures) == (kind in ("object", "attribute"))
    assert figures["other_iou"] > 0.9


def test_the_other_thing_has_to_stay():
    """It is recoloured, moved or left out, while the edit itself is right."""
    edit = edit_of("passes behind")
    judge = Judge(edit, FRAMES)
    for change in ({"colour": "orange"}, {"centre": (0.62, 0.55)}, {"centre": (9, 0.5)}):
        figures = judge.figures(video([scene.with_thing(1, **change) for scene in judge.scenes]))
        assert figures["other_iou"] < 0.6
        assert figures["other_psnr"] < 20
    # pixels of another colour are not taken for the edited thing: the ball has its own
    assert figures["iou"] > 0.8


def test_what_has_left_the_frame_must_not_be_seen():
    judge = Judge(edit_of("leaves"), FRAMES)
    stays = [scene.with_thing(0, centre=(min(scene.things[0].centre[0], 0.8), 0.45)) for scene in judge.scenes]
    ideal, figures = judge.figures(judge.ideal), judge.figures(video(stays))
    assert ideal["worst_iou"] > 0.88
    assert figures["worst_iou"] < 0.6
    assert figures["largest_centre_error"] > 10
