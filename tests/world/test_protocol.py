"""The clips that the method is measured on."""

from collections import Counter

import numpy as np
import pytest

from tav_core.world.draw import truth
from tav_core.world.judge import CHANGES
from tav_core.world.protocol import PLANS, clips_to_choose_by, clips_to_report
from tav_core.world.scene import FIGURES, GROUNDS

HALVES = {"choose": clips_to_choose_by, "report": clips_to_report}
BOTH = clips_to_choose_by() + clips_to_report()


@pytest.mark.parametrize("half", HALVES.values(), ids=list(HALVES))
def test_each_half_has_every_plan_and_every_ground_twice(half):
    clips = half()
    assert [clip.plan for clip in clips] == list(PLANS)
    assert set(Counter(clip.clip.scene.ground for clip in clips).values()) == {2}
    assert {clip.clip.scene.ground for clip in clips} == set(GROUNDS)
    assert sum(clip.clip.scene.things[0].kind in FIGURES for clip in clips) == 4
    assert sum(clip.plan.hard for clip in clips) == 6


def test_nothing_that_settings_are_chosen_by_is_reported():
    first, second = (half() for half in HALVES.values())
    assert not {clip.prompt for clip in first} & {clip.prompt for clip in second}
    assert len({clip.number for clip in BOTH}) == len({clip.name for clip in BOTH}) == 24


def test_the_clips_are_the_same_every_time():
    assert clips_to_report() == clips_to_report()


@pytest.mark.parametrize("clip", BOTH, ids=lambda clip: clip.name)
def test_an_edit_changes_what_its_kind_says_and_nothing_else(clip):
    scene, thing = clip.clip.scene, clip.clip.scene.things[0]
    assert [edit.kind for edit in clip.edits] == list(CHANGES)
    for edit in clip.edits:
        target = edit.target.scene
        changed = {name for name in ("ground", "style") if getattr(target, name) != getattr(scene, name)}
        changed |= {name for name in ("colour", "kind") if getattr(target.things[0], name) != getattr(thing, name)}
        assert changed == set(CHANGES[edit.kind])
        assert target.things[1:] == scene.things[1:]
        assert len({each.colour for each in target.things}) == len({each.kind for each in target.things}) or (
            len(target.things) == 1
        )
        assert edit.prompt != clip.prompt


@pytest.mark.parametrize("clip", BOTH, ids=lambda clip: clip.name)
def test_a_clip_shows_what_its_plan_says(clip):
    truths = [truth(scene) for scene in clip.scenes(8)]
    name = clip.plan.name
    shares = np.array([one.shares[0] for one in truths])
    sizes = np.array([one.sizes[0] for one in truths]).clip(1e-3) if name != "leave" else np.ones(8)
    assert max(shares) > 0.9
    assert (min(shares) < 0.75) == (name in ("leave", "behind")), shares
    assert (max(sizes[-1] / sizes[0], sizes[0] / sizes[-1]) > 1.3) == (name == "approach"), sizes
    if name == "walk-past":  # in front of the other one
        assert min(one.shares[1] for one in truths) < 0.9
    cameras = [scene.camera[0] for scene in clip.scenes(8)]
    assert cameras[-1] - cameras[0] == pytest.approx(clip.plan.pan)
