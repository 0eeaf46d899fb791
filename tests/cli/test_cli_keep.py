"""`tav edit` with what an edit keeps from its clip."""

import cv2
import numpy as np
import pytest

from tav_core import read_frames
from tav_core.jobs.mask_choice import MaskChoice
from tests.cli.test_cli import editing, files, manifest, tav, tuning  # noqa: F401  `files` is a fixture

STEPS = {"steps": 5, "inversion_steps": 5}


@pytest.fixture(scope="module")
def tuned(files):  # noqa: F811
    assert tav(*tuning(files, files / "ball.safetensors")).code == 0
    return files


def video(folder, name="a-cube"):
    return read_frames(folder / f"{name}.mp4", 4, size=64).frames


def edited(tuned, folder, prompt="a cube", **options):
    outcome = tav(*editing(tuned, folder, prompt, **STEPS | options))
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.fixture(scope="module")
def plain(tuned, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    edited(tuned, folder)
    return folder


@pytest.mark.parametrize("options", [{"keep_structure": 0.6}, {"keep_layout": 0.6}])
def test_each_dial_changes_the_edit_and_is_in_the_manifest(tuned, plain, tmp_path, options):
    outcome = edited(tuned, tmp_path, **options)
    assert (video(tmp_path) - video(plain)).abs().max() > 0.02
    assert options.items() <= manifest(tmp_path)["settings"].items()
    assert ("each word takes the place" in outcome.err) == ("keep_layout" in options)


def test_a_word_counts_for_more(tuned, tmp_path):
    for factor in (1, 4):
        edited(tuned, tmp_path / str(factor), keep_layout=0.6, reweight=f"cube:{factor}")
    assert manifest(tmp_path / "4")["settings"]["reweight"] == {"cube": 4.0}
    assert (video(tmp_path / "4") - video(tmp_path / "1")).abs().max() > 0.01


def test_the_inversion_is_kept_with_its_whole_path_for_edits_that_keep_more(tuned, tmp_path):
    edited(tuned, tmp_path)
    assert "Reusing the inversion" in edited(tuned, tmp_path, keep_structure=0.5, mask="WORD:ball").err
    assert "Reusing the inversion" not in edited(tuned, tmp_path, invert_with="fixed-point").err
    assert manifest(tmp_path)["settings"]["invert_with"] == "fixed-point"


def test_a_mask_says_where_the_clip_may_change(tuned, plain, tmp_path):
    """What lies between is tested on latents (tests/test_source.py), as this random VAE sees the whole picture."""
    for name, grey in (("nowhere", 0), ("everywhere", 255)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((64, 96), grey, np.uint8))
        edited(tuned, tmp_path / name, mask=tmp_path / f"{name}.png")
    assert manifest(tmp_path / "nowhere")["mask"] == {"pictures": "nowhere.png", "words": None, "grow": 0}
    edited(tuned, tmp_path / "nowhere", "a dog", mask=tmp_path / "nowhere.png")

    def differ(one, other):
        return (one - other).abs().mean()

    # on some machines a decoded value's last digit varies, which the codec turns into a few pixels
    masked = differ(video(tmp_path / "nowhere"), video(plain))
    assert masked > 0.005
    assert differ(video(tmp_path / "everywhere"), video(plain)) < 0.2 * masked
    assert differ(video(tmp_path / "nowhere"), video(tmp_path / "nowhere", "a-dog")) < 0.2 * masked


def test_a_mask_from_a_word_is_shown_on_the_sheet(tuned, plain, tmp_path):
    edited(tuned, tmp_path, mask="word:ball", mask_grow=8)
    assert manifest(tmp_path)["mask"] == {"pictures": None, "words": "ball", "grow": 8}
    heights = [cv2.imread(str(folder / "sheet.png")).shape[0] for folder in (tmp_path, plain)]
    assert heights[0] > heights[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_structure": 1.5}, "keep_structure"),
        ({"keep_layout": -0.1}, "keep_layout"),
        ({"keep_layout": 0.4, "reweight": "cube"}, "re-weighted as WORD:FACTOR, for example yellow:2, but got 'cube'"),
        ({"keep_layout": 0.4, "reweight": "cube:1e9"}, "The factor of 'cube' must be from -100 to 100"),
        ({"keep_layout": 0.4, "reweight": "cat:2"}, "'cat' is to be re-weighted, but is not in the edited prompt"),
        ({"keep_layout": 0.4, "reweight": "cube:2, Cube:3"}, "'Cube' is re-weighted twice"),
        ({"keep_layout": 0.4, "reweight": "cube:2, cube:3"}, "'cube' is re-weighted twice"),
        ({"keep_layout": 0.4, "reweight": "\udce9:2"}, "half a character (a lone surrogate)"),
        ({"reweight": "cube:2"}, "set keep_layout above 0"),
        ({"mask": "WORD:cat"}, "The mask is where 'cat' is in the clip, but the clip's prompt is 'a ball'"),
        ({"mask": "WORD:"}, "Cannot parse the mask"),
        ({"mask": "nowhere.png"}, "no file or folder nowhere.png"),
        ({"mask": "WORD:ball", "mask_grow": -1}, "mask_grow"),
    ],
)
def test_what_cannot_be_kept_is_told_at_once(tuned, tmp_path, options, message):
    outcome = tav(*editing(tuned, tmp_path, "a cube", **STEPS | options))
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())
    assert not (tmp_path / "inversion.safetensors").exists()


def test_a_file_is_a_mask_even_if_it_is_named_like_a_word():
    assert MaskChoice.parse("words/ball.png").pictures.name == "ball.png"
    assert MaskChoice.parse("Word: red ball").words == "red ball"
