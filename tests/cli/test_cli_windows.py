"""`tav tune` and `tav edit` in windows of frames."""

import pytest

from tav_core import TunedWeights
from tav_core.checkpoints.checkpoint import Checkpoint
from tav_core.video import write
from tests.cli.test_cli import assert_refused, editing, files, manifest, tav, tuning  # noqa: F401  `files` is a fixture

STEPS = {"steps": 3, "inversion_steps": 3}


@pytest.fixture(scope="module")
def divided(files):  # noqa: F811
    """A clip of 4 frames, tuned on in windows of 3."""
    outcome = tav(*tuning(files, files / "ball.safetensors", window=3))
    assert outcome.code == 0, outcome.err
    return files


def test_weights_record_the_window_and_edits_take_it(divided, tmp_path):
    assert TunedWeights.load(divided / "ball.safetensors").facts.config["window"] == 3
    assert tav(*editing(divided, tmp_path, "a cube", **STEPS)).code == 0
    assert manifest(tmp_path)["settings"]["window"] == 3


def test_an_inversion_in_other_windows_is_made_anew(divided, tmp_path):
    reused = []
    for options in ({}, {}, {"window": 0}, {"window": 2}, {"window": 3, "overlap": 1}):
        outcome = tav(*editing(divided, tmp_path, "a cube", **STEPS, **options))
        assert outcome.code == 0, outcome.err
        reused.append(manifest(tmp_path)["inversion"]["reused"])
    assert reused == [False, True, False, False, False]
    assert tav(*editing(divided, tmp_path, "a cube", **STEPS, overlap=1)).code == 0  # of the tuned window
    assert manifest(tmp_path)["settings"] | {"window": 3, "overlap": 1} == manifest(tmp_path)["settings"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 16}, "The window has 16 frames, but the clip has only 4; give at most 4, or do without windows"),
        ({"window": 1}, "window must be at least 2 frames, or 0 for the whole clip; got 1"),
        ({"window": 3, "overlap": 2}, "overlap must be from 0 to 1"),
    ],
)
def test_a_window_that_cannot_be_is_refused_before_any_work(divided, tmp_path, options, message):
    assert_refused(tav(*editing(divided, tmp_path, "a cube", **options)), message)
    if "overlap" not in options:
        assert_refused(tav(*tuning(divided, tmp_path / "new.safetensors", **options)), message)


def test_a_clip_no_longer_than_the_tuned_window_is_edited_whole(divided, tmp_path):
    assert tav(*editing(divided, tmp_path, "a cube", **STEPS, frames=2)).code == 0
    assert manifest(tmp_path)["settings"]["window"] == 0
    outcome = tav(*editing(divided, tmp_path, "a cube", **STEPS, frames=2, overlap=1))
    assert_refused(outcome, "the clip is edited whole; also give --window")


def test_frames_are_written_as_they_are_decoded_so_that_a_long_edit_never_holds_them_all(
    divided, tmp_path, monkeypatch
):
    events = []
    for where, name in ((Checkpoint, "_decoded"), (write, "yuv")):
        original = getattr(where, name)

        def noted(*arguments, original=original, name=name):
            events.append(name)
            return original(*arguments)

        monkeypatch.setattr(where, name, noted)
    outcome = tav(*editing(divided, tmp_path, "a cube", **STEPS))
    assert outcome.code == 0, outcome.err
    assert events == ["_decoded", "yuv"] * 4 * 2  # the reconstruction's four frames and the edit's
