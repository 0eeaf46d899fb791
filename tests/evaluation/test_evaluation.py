"""What `tav eval` claims, on a small part of it: one clip, two edits, four variants, fewer steps.

Bounds leave about half of what was measured.
"""

from dataclasses import replace

import pytest

from tav_core.checkpoints.checkpoint import load_checkpoint
from tav_core.demo.miniature import miniature_path
from tav_core.demo.settings import Settings
from tav_core.evaluation.evaluate import evaluate
from tav_core.evaluation.variants import VARIANTS
from tav_core.world.protocol import clips_to_report

KINDS = ("object", "background")
SETTINGS = Settings(tuning_steps=40, steps=10, inversion_steps=10)


@pytest.fixture(scope="module")
def measured():
    """(variant or reference, kind of edit, figure) -> value; the kind is "" for the clip as a whole."""
    variants = {name: VARIANTS[name] for name in ("full", "no-inversion", "no-tuning", "keep-all")}
    clip = next(clip for clip in clips_to_report() if clip.plan.name == "line")
    clip = replace(clip, edits=tuple(edit for edit in clip.edits if edit.kind in KINDS))
    outcomes = evaluate(load_checkpoint(miniature_path()), [clip], variants, SETTINGS)
    return {
        (outcome.variant, kind, figure): value
        for outcome in outcomes
        for kind, figures in outcome.figures.items()
        for figure, value in figures.items()
    }


def test_a_new_background_lands_and_the_object_moves_as_in_the_clip(measured):
    assert measured["full", "background", "edit_right"] > 0.7
    assert measured["full", "background", "trajectory_correlation"] > 0.9
    assert measured["ideal-vae", "background", "iou"] > measured["full", "background", "iou"] > 0.6
    assert measured["full", "", "reconstruction_psnr"] > 28


def test_the_motion_is_in_the_inverted_noise(measured):
    for figure, difference in (("trajectory_correlation", 0.6), ("iou", 0.4)):
        full, without = (measured[name, "background", figure] for name in ("full", "no-inversion"))
        assert full > without + difference, figure


def test_tuning_brings_the_reconstruction_closer_to_the_clip(measured):
    tuned, untuned = (measured[name, "", "reconstruction_psnr"] for name in ("full", "no-tuning"))
    assert tuned > untuned + 0.13


def test_another_object_follows_the_path_only_where_more_is_kept_of_the_clip(measured):
    kept, plain = (measured[name, "object", "iou"] for name in ("keep-all", "full"))
    assert kept > plain + 0.3
    kept, plain = (measured[name, "object", "background_psnr"] for name in ("keep-all", "full"))
    assert kept > plain + 3
