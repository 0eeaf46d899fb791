"""What edits are held against: clips and edits that cover the world, and figures that tell right from wrong."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from tav_core.demo.world import MOTIONS, SPEEDS, draw_clip
from tav_core.evaluation.judging import edit_figures, figures
from tav_core.evaluation.protocol import ATTRIBUTES, CHANGES, clips_to_choose_by, clips_to_report

CLIPS = clips_to_choose_by() + clips_to_report()


def drawn(scenes) -> torch.Tensor:
    return torch.from_numpy(draw_clip(scenes)).float() / 255


def ideal(clip, edit) -> list:
    """The scenes of a perfect edit: what the prompt asks for, where the clip's object is."""
    return [replace(edit.scene, centre=scene.centre) for scene in clip.scenes(8)]


def kind(clip, name):
    return next(edit for edit in clip.edits if edit.kind == name)


# Protocol


@pytest.mark.parametrize("half", [clips_to_choose_by(), clips_to_report()])
def test_each_half_has_every_motion_at_every_speed_and_an_edit_of_every_kind(half):
    assert Counter((clip.motion, clip.speed) for clip in half) == Counter((m, s) for m in MOTIONS for s in SPEEDS)
    assert {len({getattr(clip.scene, fact) for clip in half}) for fact in ("colour", "shape", "ground")} == {8, 4, 6}
    assert all([edit.kind for edit in clip.edits] == list(CHANGES) for clip in half)


def test_nothing_that_settings_are_chosen_by_is_reported():
    assert len({clip.name for clip in CLIPS}) == len({clip.number for clip in CLIPS}) == 16
    shown = [(clip.motion, clip.speed, clip.scene) for clip in CLIPS]
    assert len(set(shown)) == 16


def test_the_clips_are_the_same_every_time():
    assert clips_to_report() == clips_to_report()


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_an_edit_changes_what_its_kind_says_and_nothing_else(clip):
    for edit in clip.edits:
        changed = {name for name in ATTRIBUTES if getattr(edit.scene, name) != getattr(clip.scene, name)}
        assert changed == set(CHANGES[edit.kind])
        assert edit.prompt == edit.scene.caption != clip.prompt


# Judging


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_a_perfect_edit_gets_full_marks(clip):
    source = drawn(clip.scenes(8))
    result = figures(clip, source, [drawn(ideal(clip, edit)) for edit in clip.edits], source)
    for name in ("attribute_right", "rest_kept", "constancy"):
        assert result[name] >= 0.96
    assert result["trajectory_correlation"] > 0.99
    assert result["centre_error"] < 0.012
    assert result["background_psnr"] > 45
    assert result["reconstruction_psnr"] == 100
    assert result["reconstruction_ssim"] == pytest.approx(1)


@pytest.mark.parametrize("name", CHANGES)
def test_the_clip_itself_is_no_edit_yet_everything_is_kept(name):
    clip = clips_to_report()[1]
    scenes = clip.scenes(8)
    result = edit_figures(kind(clip, name), drawn(scenes), scenes, drawn(scenes))
    assert result["attribute_right"] == result[f"attribute_right_{name}"] == 0
    assert result["rest_kept"] == 1
    assert result["trajectory_correlation"] > 0.99


def test_an_object_that_jumps_about_lands_and_loses_the_motion():
    clip = clips_to_report()[1]
    edit, rng = kind(clip, "object"), np.random.default_rng(0)
    scattered = [replace(edit.scene, centre=tuple(rng.uniform(0.2, 0.8, 2))) for _ in range(8)]
    result = edit_figures(edit, drawn(scattered), clip.scenes(8), drawn(clip.scenes(8)))
    assert result["attribute_right"] == result["rest_kept"] == 1
    assert abs(result["trajectory_correlation"]) < 0.7
    assert result["centre_error"] > 0.1
    assert result["background_psnr"] > 45  # the ground is the clip's, wherever the object went


def test_a_video_whose_object_changes_is_not_constant():
    clip = clips_to_report()[1]
    edit = kind(clip, "object")
    half_way = [*clip.scenes(8)[:4], *ideal(clip, edit)[4:]]
    result = edit_figures(edit, drawn(half_way), clip.scenes(8), drawn(clip.scenes(8)))
    assert result["attribute_right"] == result["shape_constancy"] == result["colour_constancy"] == 0.5
    assert result["ground_constancy"] == 1


def test_a_lost_object_costs_the_edit_the_constancy_and_the_motion():
    clip = clips_to_report()[1]
    edit = kind(clip, "object")
    empty = [replace(scene, centre=(-1.0, -1.0)) for scene in ideal(clip, edit)]
    result = edit_figures(edit, drawn(empty), clip.scenes(8), drawn(clip.scenes(8)))
    assert result["attribute_right"] == result["shape_constancy"] == result["trajectory_correlation"] == 0


def test_a_spoilt_background_shows_where_it_should_be_kept():
    clip = clips_to_report()[1]
    edit = kind(clip, "attribute")
    other = [replace(scene, ground=kind(clip, "background").scene.ground) for scene in ideal(clip, edit)]
    result = edit_figures(edit, drawn(other), clip.scenes(8), drawn(clip.scenes(8)))
    assert result["attribute_right"] == 1
    assert result["rest_kept"] == 0
    assert result["background_psnr"] < 20
    assert "background_psnr" not in edit_figures(
        kind(clip, "background"), drawn(other), clip.scenes(8), drawn(clip.scenes(8))
    )
