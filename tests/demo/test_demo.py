"""`tav demo` as a newcomer runs it: the whole method on the miniature, and the files that it leaves."""

import json
from functools import partial

import pytest
import torch

from tav_core.cli.screen import progress_bars
from tav_core.demo.settings import Settings
from tav_core.demo.showcase import run_demo
from tav_core.errors import TavError
from tav_core.video.read import read_frames
from tests.cli.test_cli import tav

PROMPTS = ("a green triangle is moving on the snow", "a zebra is moving on the grass")
SETTINGS = Settings(tuning_steps=40, steps=10, frames=4)  # the least that still edits well


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What the command said, and the folder that it left."""
    folder = tmp_path_factory.mktemp("demo") / "output"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tav_core.cli.demo.run_demo", partial(run_demo, settings=SETTINGS))
        return tav("demo", "-o", folder, *(word for prompt in PROMPTS for word in ("-p", prompt))), folder


def test_it_leaves_videos_sheet_losses_and_manifest(ran):
    said, folder = ran
    assert said.code == 0, said.err
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["reconstruction_psnr"] > 27
    assert manifest["seconds"] == pytest.approx(sum(manifest["parts"].values()), abs=0.5)
    assert [edit["prompt"] for edit in manifest["edits"]] == list(PROMPTS)
    for edit in manifest["edits"]:
        assert read_frames(folder / edit["path"], SETTINGS.frames, size=128).frames.shape[0] == SETTINGS.frames
    for name in ("clip.mp4", "sheet.png", "loss.png", "tuned.safetensors"):
        assert (folder / name).stat().st_size > 1000, name
        assert name in said.out or name in ("clip.mp4", "tuned.safetensors")


def test_an_edit_is_compared_with_the_truth(ran):
    _, folder = ran
    triangle, _ = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["edits"]
    assert triangle["kind"] == "object"
    assert triangle["attribute_right"] > 0.7
    assert triangle["trajectory_correlation"] > 0.8


def test_an_unknown_word_is_reported_and_used(ran):
    said, folder = ran
    assert "does not know zebra. It knows: a an and the is are moving" in said.err
    zebra = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["edits"][1]
    assert (zebra["kind"], zebra["attribute_right"]) == ("other", None)


def test_a_stopped_demo_resumes_with_all_losses_and_names_the_words_that_are_cut_off(tmp_path):
    quick = {"settings": Settings(tuning_steps=3, steps=1, inversion_steps=1, frames=2), "device": torch.device("cpu")}
    prompts, said = [f"a red ball is {10 * 'wonderfully '}moving on the snow"], []

    def stop(step: int, total: int, *, part: str, **_) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path, prompts, on_step=stop, **quick)
    manifest = run_demo(tmp_path, prompts, on_step=progress_bars(), say=said.append, **quick)
    assert len(manifest["losses"]) == 3
    assert any("cut off" in message and "snow" in message for message in said)


def test_nothing_is_tuned_for_an_empty_prompt(tmp_path):
    with pytest.raises(TavError, match="prompt of an edit is empty"):
        run_demo(tmp_path, ["a red ball", " "], device=torch.device("cpu"))
    assert not list(tmp_path.iterdir())
