"""The shell: whole runs on a tiny random checkpoint, what survives an interruption, and every error message."""

import errno
import io
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tav_core import TunedWeights, memory, read_frames
from tav_core.cli.main import main
from tav_core.jobs import base as jobs
from tav_core.jobs import edit_run
from tav_core.jobs.edit_config import EditConfig
from tav_core.jobs.editing import prepare_edit, selection_as_tuned
from tav_core.jobs.selection import Selection
from tav_core.jobs.tuning import TuningRun
from tav_core.tuned_facts import TunedFacts
from tests.cli.test_original_config import CONFIG, write
from tests.clips import broken, encode, moving
from tests.limits import files_no_larger_than
from tests.random_checkpoint import write_random_checkpoint

ROOT, CPU = Path(__file__).parents[2], torch.device("cpu")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def tav(*arguments) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return Outcome(ended.value.code or 0, out.getvalue(), err.getvalue())


def process(*arguments) -> subprocess.CompletedProcess:
    """Python with these arguments, from the checkout."""
    words = [str(argument) for argument in arguments]
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """A folder with a clip, a checkpoint and another one."""
    folder = tmp_path_factory.mktemp("files")
    write_random_checkpoint(folder / "sd.safetensors", size="tiny")
    write_random_checkpoint(folder / "other.safetensors", size="tiny", seed=1)
    write_random_checkpoint(folder / "sd2.safetensors", size="tiny-sd2")
    x, y = np.meshgrid(np.arange(96), np.arange(64))
    balls = [(x - 9 * i - 8) ** 2 + (y - 32) ** 2 < 150 for i in range(10)]
    encode(folder / "ball.mp4", [np.stack([2 * x, 3 * y, 220 * ball], -1).astype(np.uint8) for ball in balls], fps=8)
    return folder


def tuning(files, output, **changes) -> list:
    """The words of a small `tav tune`; changes replace options by name."""
    options = {"prompt": "a ball", "checkpoint": files / "sd.safetensors", "output": output}
    options |= {"frames": 4, "size": 64, "steps": 3} | changes
    return ["tune", options.pop("clip", files / "ball.mp4"), *_words(options)]


def editing(files, folder, *prompts, **changes) -> list:
    """The words of a small `tav edit`."""
    options = {"weights": files / "ball.safetensors", "checkpoint": files / "sd.safetensors", "output": folder}
    options |= {"steps": 3, "inversion_steps": 3} | changes
    words = [word for prompt in prompts for word in ("--prompt", prompt)]
    return ["edit", files / "ball.mp4", *_words(options), *words]


def _words(options: dict) -> list:
    """The options as the shell takes them; True is a flag."""
    words = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]
    return [word for pair in words for word in pair if word is not True]


@pytest.fixture(scope="session")
def tuned(files) -> Path:
    """The same folder, with weights tuned on the clip as ball.safetensors."""
    assert tav(*tuning(files, files / "ball.safetensors")).code == 0
    return files


@contextmanager
def interrupted_by(error: BaseException):
    """Within it, a tuning run of the shell ends after its second step."""
    run = TuningRun.run

    def ended(self, on_step):
        def then_end(step, total, **values):
            on_step(step, total, **values)
            if step == 2:
                raise error

        return run(self, then_end)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TuningRun, "run", ended)
        yield


def stopped(words) -> Outcome:
    """What the shell says when Ctrl-C comes in the second step."""
    with interrupted_by(KeyboardInterrupt()):
        outcome = tav(*words)
    assert outcome.code == 130
    return outcome


def manifest(folder) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_a_clip_is_tuned_on_and_edited(tuned, tmp_path):
    edited = tav(*editing(tuned, tmp_path, "a cube is rolling", "猫が転がる"))
    assert edited.code == 0
    assert "reconstructs the clip at" in edited.err
    names = ["a-cube-is-rolling.mp4", "猫が転がる.mp4"]
    assert edited.out.split() == [str(tmp_path / name) for name in [*names, "sheet.png", "manifest.json"]]
    for name in [*names, "reconstruction.mp4"]:
        assert read_frames(tmp_path / name, 4, size=64).fps == pytest.approx(8 / 3)
    made = manifest(tmp_path)
    assert [(edit["prompt"], edit["path"]) for edit in made["edits"]] == [
        ("a cube is rolling", names[0]),
        ("猫が転がる", names[1]),
    ]
    assert made["reconstruction_psnr"] > 5
    assert (made["settings"]["num_steps"], made["settings"]["guidance_scale"]) == (3, 12.5)
    assert all((tmp_path / made[source]).exists() for source in ("clip", "weights", "checkpoint", "sheet"))
    assert {"inversion", "reconstruction"} <= made["seconds"].keys()
    assert {"tune-a-video", "torch", "diffusers"} == made["versions"].keys()


def test_frames_are_chosen_by_time_where_the_rate_varies_and_by_number_on_request(files, tmp_path):
    times = [*range(0, 6000, 1000), *range(6000, 8000, 50)]  # milliseconds
    encode(tmp_path / "ball.mp4", [np.full((48, 64, 3), time // 40, np.uint8) for time in times], times=times)
    kept = {}
    for name, flags in (("auto", {}), ("number", {"by_number": True})):
        assert tav(*tuning(files, tmp_path / f"{name}.safetensors", clip=tmp_path / "ball.mp4", **flags)).code == 0
        kept[name] = TunedWeights.load(tmp_path / f"{name}.safetensors").facts
    assert (kept["auto"].by_time, kept["number"].by_time) == (True, False)
    assert kept["auto"].fps == pytest.approx(3 / 7.95)
    assert kept["auto"].run != kept["number"].run


def test_an_edit_chooses_its_frames_as_tuning_did():
    clip = Path("clip.mp4")
    chosen = {"frames": 4, "start": 0, "stride": 0}
    assert selection_as_tuned(clip, TunedFacts(**chosen, by_time=True), {}).by_time is True
    assert selection_as_tuned(clip, TunedFacts(**chosen), {}).by_time is False  # of a version that counted frames
    assert selection_as_tuned(clip, TunedFacts(**chosen, by_time=True), {"stride": 2}).by_time is False
    assert selection_as_tuned(clip, TunedFacts(**chosen, by_time=True), {"by_time": False}).by_time is False
    assert selection_as_tuned(clip, TunedFacts(), {}).by_time is None  # of a graph, which does not say


def test_a_damaged_frame_is_told_before_tuning_and_before_an_edit(tuned, tmp_path):
    path = encode(tmp_path / "ball.avi", moving(12), codec="mpeg4", options={"g": "12", "q": "3"})
    path.write_bytes(broken(path, 5))
    warning = "Warning: ball.avi is damaged at frame 5"
    assert warning in tav(*tuning(tuned, tmp_path / "ball.safetensors", clip=path)).err
    edit = editing(tuned, tmp_path / "edits", "a cube")
    assert warning in tav(edit[0], path, *edit[2:]).err


def test_info_prints_how_weights_were_tuned(tuned):
    shown = tav("info", tuned / "ball.safetensors")
    assert shown.code == 0
    for value in ("a ball", "ball.mp4", "64x64", "sd1", "learning rate           3e-05"):
        assert value in shown.out
    facts = json.loads(tav("info", tuned / "ball.safetensors", "--json").out)
    selection = {name: facts[name] for name in ("clip", "frames", "size", "start", "stride", "fit", "by_time")}
    assert selection == {
        "clip": "ball.mp4",
        "frames": 4,
        "size": [64, 64],
        "start": 0,
        "stride": 0,
        "fit": "crop",
        "by_time": False,
    }
    assert (facts["prompt"], facts["family"], facts["steps"]) == ("a ball", "sd1", 3)
    assert facts["config"]["learning_rate"] == 3e-5
    assert facts["fps"] == pytest.approx(8 / 3)
    assert facts["final_loss"] > 0
    assert len(facts["run"]) == 64


def test_an_interrupted_run_resumes_to_the_same_weights(files, tmp_path):
    """With a sampled posterior, whose draws must resume, too; of the plain latents tests/test_tune.py shows it."""
    assert tav(*tuning(files, tmp_path / "whole.safetensors", posterior=True)).code == 0
    words = tuning(files, tmp_path / "parts.safetensors", posterior=True)
    assert "Stopped after step 2 of 3; run the same command again to resume." in stopped(words).err
    assert not (tmp_path / "parts.safetensors").exists()
    (kept,) = tmp_path.glob(".parts.*.resume.safetensors")
    assert "Resuming at step 2 of 3" in tav(*words).err
    whole, parts = (TunedWeights.load(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert parts.facts == whole.facts
    assert parts.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(parts.tensors[name], tensor) for name, tensor in whole.tensors.items())
    assert not kept.exists()


def test_a_run_that_is_done_is_left_alone(tuned):
    before = (tuned / "ball.safetensors").stat().st_mtime_ns
    again = tav(*tuning(tuned, tuned / "ball.safetensors"))
    assert again.code == 0
    assert "already finished" in again.err
    assert (tuned / "ball.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "a cube"}, "prompt 'a ball', not 'a cube'"),
        ({"steps": 4}, "after 3 steps, not 4"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"attention": "full"}, "attention 'sparse-causal', not 'full'"),
        ({"checkpoint": "other.safetensors"}, "another clip, checkpoint or device"),
    ],
)
def test_the_weights_of_another_run_are_not_replaced(tuned, changes, message):
    if "checkpoint" in changes:
        changes = {"checkpoint": tuned / changes["checkpoint"]}
    before = (tuned / "ball.safetensors").read_bytes()
    refused = tav(*tuning(tuned, tuned / "ball.safetensors", **changes))
    assert refused.code == 2
    assert message in refused.err
    assert "--force" in refused.err
    assert (tuned / "ball.safetensors").read_bytes() == before


def test_another_file_is_replaced_only_by_force(files, tmp_path):
    output = tmp_path / "ball.safetensors"
    output.write_text("a letter")
    refused = tav(*tuning(files, output))
    assert refused.code == 2
    assert "holds something else" in refused.err
    assert output.read_text() == "a letter"
    assert tav(*tuning(files, output), "--force").code == 0
    assert TunedWeights.load(output).facts.steps == 3


def test_an_interrupted_run_is_neither_shortened_nor_taken_for_another(files, tmp_path):
    stopped(tuning(files, tmp_path / "ball.safetensors"))
    (kept,) = tmp_path.glob(".ball.*")
    assert_refused(tav(*tuning(files, tmp_path / "ball.safetensors", steps=1)), "ask for at least 2 steps")
    changed = tav(*tuning(files, tmp_path / "ball.safetensors", seed=1))
    assert changed.code == 0
    assert f"{kept.name} belongs to an interrupted run" in changed.err
    assert kept.exists()


def test_an_inversion_is_used_again_for_other_prompts_and_by_another_process(tuned, tmp_path):
    assert tav(*editing(tuned, tmp_path, "a cube")).code == 0
    first, kept = manifest(tmp_path), (tmp_path / "inversion.safetensors").read_bytes()
    assert not first["inversion"]["reused"]
    words = editing(tuned, tmp_path, "a cat", "a dog", guidance=1)
    again = process("-m", "tav_core.cli", *words)
    assert again.returncode == 0, again.stderr
    assert "Reusing the inversion" in again.stderr
    assert manifest(tmp_path)["inversion"]["reused"]
    assert manifest(tmp_path)["reconstruction_psnr"] == pytest.approx(first["reconstruction_psnr"], abs=1e-3)
    assert (tmp_path / "inversion.safetensors").read_bytes() == kept
    # and nothing but our own words, whatever the libraries have to say
    ours = ("Reading ", "Sampling will take ", "Reusing the inversion ", "The inversion ", "a cat:", "a dog:")
    ours += ("encoding:", "writing:")
    assert all(line.startswith(ours) for line in again.stderr.replace("\r", "\n").splitlines() if line)


def test_an_inversion_is_reused_only_while_everything_behind_it_is_the_same(tuned, tmp_path):
    (tmp_path / "inversion.safetensors").write_bytes(b"half a fi")
    assert tav(*editing(tuned, tmp_path, "a cube")).code == 0
    assert not manifest(tmp_path)["inversion"]["reused"]

    def kept(checkpoint="sd.safetensors", start=0, **settings):
        clip = Selection(tuned / "ball.mp4", frames=4, size=64, start=start)
        config = EditConfig(**{"num_steps": 3, "inversion_steps": 3} | settings)
        weights, base = tuned / "ball.safetensors", tuned / checkpoint
        return prepare_edit(clip, weights, base, ["a dog"], tmp_path, config=config, device=CPU).kept

    assert kept()
    assert kept(num_steps=2, guidance_scale=3.0, seed=1)
    for change in (
        {"strength": 0.5},
        {"inversion_steps": 2},
        {"inversion_prompt": "a ball"},
        {"start": 2},
        {"precision": "bf16"},
        {"checkpoint": "other.safetensors"},
    ):
        assert not kept(**change), change
    changed = tav(*editing(tuned, tmp_path, "a cube", strength=0.5))
    assert "Reusing" not in changed.err
    assert not manifest(tmp_path)["inversion"]["reused"]


def test_the_same_seed_gives_the_same_video_also_with_noise(tuned, tmp_path):
    for name, seed in (("first", 7), ("second", 7), ("third", 8)):
        assert tav(*editing(tuned, tmp_path / name, "a cube", eta=1, seed=seed)).code == 0
    # the sheet shows the frames as they were before they were compressed
    first, second, third = ((tmp_path / name / "sheet.png").read_bytes() for name in ("first", "second", "third"))
    assert first == second != third


def test_each_part_of_an_edit_reports_its_steps(tuned, tmp_path):
    steps = []
    config = EditConfig(num_steps=2, inversion_steps=3)
    run = prepare_edit(
        tuned / "ball.mp4",
        tuned / "ball.safetensors",
        tuned / "sd.safetensors",
        ["a cube"],
        tmp_path,
        config=config,
        device=CPU,
    )
    run.run(lambda step, total, *, part, **_: steps.append((part, step, total)))
    parts = [("inversion", 3), ("reconstruction", 3), ("writing", 4), ("a cube", 2), ("writing", 4)]
    assert steps == [(part, step + 1, total) for part, total in parts for step in range(total)]


def test_weights_on_a_sibling_of_their_checkpoint_are_used_with_a_warning(tuned, tmp_path):
    edited = tav(*editing(tuned, tmp_path, "a cube", checkpoint=tuned / "other.safetensors"))
    assert edited.code == 0
    base = TunedWeights.load(tuned / "ball.safetensors").facts.base_fingerprint
    (warning,) = [line for line in edited.err.splitlines() if "fingerprint" in line]
    tuned_on = f"The weights were tuned on sd.safetensors (fingerprint {base[:12]})"
    assert warning.startswith(f"Warning: {tuned_on}, but other.safetensors is another one")


def test_words_that_the_model_does_not_see_are_named(tuned, tmp_path):
    edited = tav(*editing(tuned, tmp_path, "a cube " + "and a ball " * 25 + "at last"))
    assert edited.code == 0
    assert "cut off" in edited.err
    assert "at last" in edited.err


def small_config(files, folder) -> Path:
    """A config of the original, of two steps on few small frames."""
    small = {"n_sample_frames": 4, "width": 64, "height": 64, "sample_start_idx": 0}
    changes = {f"train_data__{name}": value for name, value in small.items()}
    changes |= {"validation_data__video_length": 4, "validation_data__width": 64, "validation_data__height": 64}
    changes |= {"validation_data__num_inference_steps": 2, "validation_data__num_inv_steps": 2, "max_train_steps": 2}
    return write(folder, CONFIG, **changes, train_data__video_path=str(files / "ball.mp4"))


def test_a_config_of_the_original_runs_as_it_is(files, tmp_path):
    config = small_config(files, tmp_path)
    words = ["run", config, "--checkpoint", files / "sd.safetensors", "--output", tmp_path / "out"]
    ended = tav(*words)
    assert ended.code == 0, ended.err
    assert "Ignored, because it has no meaning here: checkpointing_steps, enable_xformers" in ended.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a-ball-is-rolling-cartoon-style.mp4",
        "a-cube-is-rolling.mp4",
        "config.yaml",
        "inversion.safetensors",
        "manifest.json",
        "reconstruction.mp4",
        "sheet.png",
        "tuned.safetensors",
    ]
    assert (tmp_path / "out" / "config.yaml").read_bytes() == config.read_bytes()
    facts = TunedWeights.load(tmp_path / "out" / "tuned.safetensors").facts
    assert (facts.fit, facts.stride, facts.posterior, facts.config["seed"]) == ("stretch", 2, True, 33)
    again = tav(*words)
    assert "already finished" in again.err
    assert "Reusing the inversion" in again.err


def test_without_an_inverted_latent_the_videos_start_from_noise_of_the_seed(files, tmp_path):
    changes = {"train_data__n_sample_frames": 2, "train_data__width": 64, "train_data__height": 64}
    changes |= {"validation_data__video_length": 3, "validation_data__width": 64, "validation_data__height": 64}
    changes |= {"validation_data__use_inv_latent": False, "validation_data__num_inference_steps": 2}
    config = write(tmp_path, **changes, max_train_steps=1, train_data__video_path=str(files / "ball.mp4"))
    ended = tav("run", config, "--checkpoint", files / "sd.safetensors", "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert not list((tmp_path / "out").glob("reconstruction*"))
    assert manifest(tmp_path / "out")["reconstruction_psnr"] is None
    frames = read_frames(tmp_path / "out" / "a-cube-is-rolling.mp4", 3, size=64).frames
    assert frames.std() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "  "}, "The clip's prompt is empty"),
        ({"output": "ball.ckpt"}, "give it that suffix"),
        ({"output": "ball.mp4/ball.safetensors"}, "Cannot write to"),
        ({"clip": "absent.mp4"}, "There is no file or folder"),
        ({"clip": "sd.safetensors"}, "sd.safetensors"),
        ({"frames": 40}, "only 10 of 10 frames are available"),
        ({"size": "60"}, "multiples of 8; try 64x64"),
        ({"size": "64 by 64"}, "such as 512x320"),
        ({"steps": 0}, "num_steps must be a whole number of at least 1"),
        ({"learning_rate": 3}, "learning_rate must be a number between 0 and 1"),
        ({"checkpoint": "absent.safetensors"}, "There is no checkpoint at"),
        ({"checkpoint": "ball.mp4"}, "is not a checkpoint"),
        ({"device": "abacus"}, "The device 'abacus' cannot be used here"),
        ({"size": 8_000_000_000}, "16384 pixels a side is the most"),
        ({"prompt": "a \ud800 ball"}, "holds half a character"),
        ({"seed": 2**63}, "seed must be a whole number of at least 0, below 2^63"),
    ],
)
def test_what_cannot_be_tuned_gets_a_clear_error_message(files, tmp_path, changes, message):
    changes = {n: files / v if n in ("clip", "checkpoint", "output") else v for n, v in changes.items()}
    refused = tav(*tuning(files, changes.pop("output", tmp_path / "new" / "ball.safetensors"), **changes))
    assert_refused(refused, message)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, "Prompt 2 of 2 is empty"),
        ({"prompt": "a \ud800 ball"}, "holds half a character"),
        ({"negative": "a \ud800 ball"}, "holds half a character"),
        ({"mask": "WORD:\ud800"}, "holds half a character"),
        ({"prompt": "a (red:nan) ball"}, "has a weight that is not a number"),
        ({"seed": 2**63}, "below 2^63"),
        ({"weights": "absent.safetensors"}, "There is no file"),
        ({"weights": "sd.safetensors"}, "has format 'pt'"),
        ({"weights": "ball.mp4"}, "is damaged, or not a .safetensors file"),
        ({"checkpoint": "sd2.safetensors"}, "tuned on Stable Diffusion 1.x, but this is Stable Diffusion 2.x"),
        ({"output": "ball.mp4"}, "Cannot write to"),
        ({"steps": 0}, "num_steps must be from 1 to 999"),
        ({"steps": 400}, "far from full noise; use 333 or 500"),
        ({"eta": 2}, "eta must be from 0 to 1"),
        ({"frames": 11}, "only 10 of 10 frames are available"),
    ],
)
def test_what_cannot_be_edited_gets_a_clear_error_message(tuned, tmp_path, changes, message):
    changes = {n: tuned / v if n in ("weights", "checkpoint", "output") else v for n, v in changes.items()}
    prompts = ["a cube", changes.pop("prompt", "a cat")]
    assert_refused(tav(*editing(tuned, changes.pop("output", tmp_path), *prompts, **changes)), message)
    assert not list(tmp_path.iterdir())


def assert_refused(outcome, message: str) -> None:
    """One line of error, and code 2."""
    errors = [line for line in outcome.err.splitlines() if line.startswith("Error: ")]
    assert outcome.code == 2
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX's")
def test_a_full_disk_is_reported_and_leaves_nothing_half_written(files, tmp_path):
    """A limit on file sizes stands in for the disk: the system itself refuses the write."""
    with files_no_larger_than(2**17):
        ended = tav(*tuning(files, tmp_path / "ball.safetensors", steps=1))
    assert_refused(ended, "A file could not be written (File too large). Free some space")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_at_the_end_costs_no_step(files, tmp_path, monkeypatch):
    def full(source, target, replace=os.replace):
        if Path(target) == output:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)
        replace(source, target)

    output = tmp_path / "ball.safetensors"
    monkeypatch.setattr(os, "replace", full)
    assert_refused(tav(*tuning(files, output)), f"{output}: No space left on device. Free some space")
    assert [path.name.endswith(".resume.safetensors") for path in tmp_path.iterdir()] == [True]
    monkeypatch.undo()
    ended = tav(*tuning(files, output))
    assert "Resuming at step 3 of 3" in ended.err
    assert ended.code == 0


def test_running_out_of_memory_is_reported_and_keeps_what_was_done(files, tmp_path):
    words = tuning(files, tmp_path / "ball.safetensors")
    with interrupted_by(torch.OutOfMemoryError("CUDA out of memory")):
        assert_refused(tav(*words), "Out of memory. Turn on gradient checkpointing")
    assert "Resuming at step 2 of 3" in tav(*words).err


def test_a_bug_keeps_its_traceback(files, tmp_path):
    with interrupted_by(ZeroDivisionError()), pytest.raises(ZeroDivisionError):
        main([str(word) for word in tuning(files, tmp_path / "ball.safetensors")])


def test_where_memory_is_short_checkpointing_is_on_and_a_warning_says_what_to_lower(files, tmp_path, monkeypatch):
    for module in (memory, jobs):
        monkeypatch.setattr(module, "available_memory", lambda device: 2**20)
    said = tav(*tuning(files, tmp_path / "a.safetensors", steps=1)).err
    assert "1.0 MiB are free" in said
    assert "Gradient checkpointing is on, because a step would not fit without it" in said
    assert "Warning: it will probably not fit; use --window, fewer frames or a smaller size.\n" in said
    said = tav(*tuning(files, tmp_path / "b.safetensors", steps=1, gradient_checkpointing="off")).err
    assert "a smaller size, or turn on gradient checkpointing." in said


def test_every_command_explains_itself():
    for command in ("tune", "edit", "interpolate", "extend", "run", "info", "convert", "demo", "eval"):
        shown = tav(command, "--help")
        assert shown.code == 0
        assert f"tav {command} " in re.split("Examples?:", shown.out)[1]
        assert ("--lora" in shown.out) == ("--checkpoint" in shown.out), "what takes a checkpoint takes LoRAs"
    assert "default: 24" in tav("tune", "--help").out
    assert "as tuned" in tav("edit", "--help").out
    assert tav("--version").out.startswith("tune-a-video ")


def test_without_typer_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "tav_core.cli.app")
    refused = tav("info", "ball.safetensors")
    assert refused == (2, "", "tav needs typer: pip install 'typer>=0.12', or pip install 'tune-a-video[cli]'.\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_data__prompts": []}, "must be a list of prompts, got []"),
        ({"validation_data__prompts": ["a cube", " "]}, "must be a list of prompts"),
        ({"validation_data__width": 500}, "needs multiples of 8"),
        ({"validation_data__video_length": 60}, "60 frames are asked for"),
    ],
)
def test_a_config_with_impossible_videos_is_refused_before_tuning(files, tmp_path, changes, message):
    small = {"train_data__n_sample_frames": 2, "train_data__width": 64, "train_data__height": 64, "max_train_steps": 1}
    small |= {"validation_data__video_length": 2, "validation_data__width": 64, "validation_data__height": 64}
    config = write(tmp_path, **small | changes, train_data__video_path=str(files / "ball.mp4"))
    ended = tav("run", config, "--checkpoint", files / "sd.safetensors", "--output", tmp_path / "out")
    assert ended.code == 2
    assert message in ended.err
    assert "Tuning" not in ended.err


def test_an_edit_never_takes_the_place_of_what_it_is_made_from(tuned, tmp_path):
    clip, weights = tmp_path / "ball.mp4", tmp_path / "inversion.safetensors"
    clip.write_bytes((tuned / "ball.mp4").read_bytes())
    words = editing(tuned, tmp_path, "ball")
    assert tav(words[0], clip, *words[2:]).code == 0
    assert clip.read_bytes() == (tuned / "ball.mp4").read_bytes()
    assert manifest(tmp_path)["edits"][0]["path"] == "ball-2.mp4"
    weights.write_bytes((tuned / "ball.safetensors").read_bytes())
    refused = tav(*editing(tuned, tmp_path, "a cube", weights=weights))
    assert refused.code == 2
    assert "would overwrite" in refused.err
    assert weights.read_bytes() == (tuned / "ball.safetensors").read_bytes()


def test_weights_know_their_checkpoint_in_every_precision(tuned, tmp_path):
    edited = tav(*editing(tuned, tmp_path, "a cube", precision="bf16"))
    assert edited.code == 0, edited.err
    assert "fingerprint" not in edited.err


def test_an_edit_that_fails_midway_leaves_the_older_one_as_it_was(tuned, tmp_path, monkeypatch):
    assert tav(*editing(tuned, tmp_path, "a cube")).code == 0
    before, sample = {path.name: path.read_bytes() for path in tmp_path.iterdir()}, edit_run.sample
    done = []

    def fails_at_the_third(*given, **options):
        if len(done) == 2:
            raise MemoryError
        done.append(sample(*given, **options))
        return done[-1]

    monkeypatch.setattr(edit_run, "sample", fails_at_the_third)
    failed = tav(*editing(tuned, tmp_path, "a dog", "a cube", "a cat", seed=1, eta=1))
    assert failed.code == 2
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.keys() - before.keys() == {"a-dog.mp4"}  # done, and in the place of none
    assert {name: after[name] for name in before} == before
    monkeypatch.setattr(edit_run, "sample", sample)
    assert tav(*editing(tuned, tmp_path, "a cube", seed=1, eta=1)).code == 0
    assert (tmp_path / "a-cube.mp4").read_bytes() != before["a-cube.mp4"]
    assert manifest(tmp_path)["settings"]["seed"] == 1


def test_another_output_s_interrupted_run_is_not_called_this_one_s(files, tmp_path):
    (tmp_path / f".ball.v2.{'0' * 12}.resume.safetensors").touch()
    (tmp_path / f".ball.{'0' * 12}.resume.safetensors").touch()
    tuned = tav(*tuning(files, tmp_path / "ball.safetensors", steps=1))
    assert tuned.code == 0, tuned.err
    assert f".ball.{'0' * 12}.resume" in tuned.err
    assert ".v2." not in tuned.err
    assert tav(*tuning(files, tmp_path / "my.resume.safetensors", steps=1)).code == 0


def test_a_run_for_the_longest_name_that_a_file_may_have_is_kept_and_ends(files, tmp_path):
    """In Chinese, 81 characters take 243 bytes of 255, so that the resume file's name holds fewer of them."""
    output = tmp_path / f"{'舞' * 81}.safetensors"
    with interrupted_by(KeyboardInterrupt()):
        assert tav(*tuning(files, output)).code == 130
    assert [path.name.endswith(".resume.safetensors") for path in tmp_path.iterdir()] == [True]
    resumed = tav(*tuning(files, output))
    assert (resumed.code, [path.name for path in tmp_path.iterdir()]) == (0, [output.name]), resumed.err
    assert "Resuming at step 2 of 3." in resumed.err
