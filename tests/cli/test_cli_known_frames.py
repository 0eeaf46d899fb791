"""`tav interpolate` and `tav extend`: more frames around those of a video, which stay as they are."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch

from tav_core import TunedWeights, load_checkpoint, read_frames
from tav_core.jobs import filling
from tav_core.jobs.fill_tasks import Between, Onwards
from tav_core.jobs.filling import FillConfig
from tav_core.jobs.made_with import KEY, made_of, made_with
from tav_core.video.continuation import continued_by_flow
from tav_core.video.flow import interpolated_by_flow
from tav_core.video.write import comment_of, write_video
from tav_core.windows import Windows
from tests.cli.test_cli import ROOT, _words, assert_refused, editing, files, tav, tuned, tuning  # noqa: F401  fixtures
from tests.clips import encode
from tests.golden import worst


@pytest.fixture(scope="module")
def known(files, tmp_path_factory):  # noqa: F811
    """Weights that were tuned with known frames."""
    path = tmp_path_factory.mktemp("known") / "known.safetensors"
    outcome = tav(*tuning(files, path, known_frames=True))
    assert outcome.code == 0, outcome.err
    return path


def adding(command, files, weights, output, **changes) -> list:  # noqa: F811
    options = {"weights": weights, "checkpoint": files / "sd.safetensors", "output": output, "steps": 2}
    video = changes.pop("video", files / "ball.mp4")
    return [command, video, *_words(options | ({"frames": 3} if command == "extend" else {}) | changes)]


@pytest.fixture
def written(monkeypatch):
    """The frames and frame rate of each video that a job writes, before they are compressed."""
    videos, write = [], filling.write_video

    def noted(path, frames, fps, **more):
        frames = list(frames)
        videos.append((torch.stack(frames), fps))
        write(path, frames, fps, **more)

    monkeypatch.setattr(filling, "write_video", noted)
    return videos


def of_clip(files):  # noqa: F811
    return read_frames(files / "ball.mp4", 4, size=64)


def test_the_weights_record_that_frames_were_shown(known):
    assert TunedWeights.load(known).facts.inflation.known_frames
    assert "known frames            True" in tav("info", known).out


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("guess", ["flow", "average", "none"])
def test_frames_come_in_between(files, known, tmp_path, written, factor, guess):  # noqa: F811
    outcome = tav(*adding("interpolate", files, known, tmp_path / "smooth.mp4", factor=factor, guess=guess))
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == str(tmp_path / "smooth.mp4")
    assert f"{3 * factor + 1} frames, {3 * factor - 3} of them new" in outcome.err
    (video, fps), clip = *written, of_clip(files)
    assert torch.equal(video[::factor], clip.frames)
    assert fps == pytest.approx(factor * clip.fps)
    assert len(read_frames(tmp_path / "smooth.mp4", 100, size=64, stride=1, at_most=True).frames) == len(video)


@pytest.mark.parametrize(
    ("options", "own"),
    [({}, slice(0, 4)), ({"direction": "backwards"}, slice(5, 9)), ({"direction": "loop", "frames": 2}, slice(0, 4))],
    ids=["onwards", "backwards", "loop"],
)
def test_a_video_goes_on(files, known, tmp_path, written, options, own):  # noqa: F811
    outcome = tav(*adding("extend", files, known, tmp_path / "longer.mp4", **{"frames": 5} | options))
    assert outcome.code == 0, outcome.err
    (video, fps), clip = *written, of_clip(files)
    assert len(video) == 4 + options.get("frames", 5)
    assert torch.equal(video[own], clip.frames)
    assert fps == pytest.approx(clip.fps)


def test_the_same_words_make_the_same_frames(files, known, tmp_path, written):  # noqa: F811
    for seed in (0, 0, 1):
        assert tav(*adding("extend", files, known, tmp_path / "longer.mp4", seed=seed, guidance=3)).code == 0
    (first, _), (again, _), (other, _) = written
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_edit_is_taken_with_all_of_its_frames(files, known, tmp_path, written):  # noqa: F811
    words = editing(files, tmp_path, "a cube", weights=known)
    assert tav(*words).code == 0
    video = {"video": tmp_path / "a-cube.mp4", "prompt": "a cube"}
    outcome = tav(*adding("interpolate", files, known, tmp_path / "b.mp4", **video))
    assert outcome.code == 0, outcome.err
    assert len(written[-1][0]) == 7
    outcome = tav(*adding("extend", files, known, tmp_path / "c.mp4", **video, use=3))
    assert outcome.code == 0, outcome.err
    assert len(written[-1][0]) == 6


def test_a_video_goes_on_with_the_prompt_it_was_made_with(files, known, tmp_path, written):  # noqa: F811
    assert tav(*editing(files, tmp_path / "edits", "a cube", weights=known)).code == 0
    edit, note = tmp_path / "moved.mp4", "The prompt is the one the video was made with: 'a cube'."
    (tmp_path / "edits" / "a-cube.mp4").rename(edit)
    videos = {}
    for name, changes in (("itself", {}), ("given", {"prompt": "a cube"}), ("another", {"prompt": "a ball"})):
        outcome = tav(*adding("extend", files, known, tmp_path / f"{name}.mp4", video=edit, guidance=3, **changes))
        assert outcome.code == 0, outcome.err
        assert (note in outcome.err) == (name == "itself")
        videos[name] = written[-1][0]
    assert torch.equal(videos["itself"], videos["given"])
    assert not torch.equal(videos["itself"], videos["another"])
    assert made_of(tmp_path / "itself.mp4").prompt == "a cube"
    assert made_of(tmp_path / "another.mp4").prompt == "a ball"
    assert made_of(tmp_path / "edits" / "reconstruction.mp4") is None
    made = json.loads(comment_of(edit))[KEY]
    assert made | {"guidance_scale": 12.5, "seed": 0, "weights": "known.safetensors"} == made


def test_what_the_weights_made_is_not_the_clip_they_were_tuned_on(files, known, tmp_path, written):  # noqa: F811
    (tmp_path / "made").mkdir()
    smooth, other = tmp_path / "made" / "ball.mp4", tmp_path / "other.safetensors"
    assert tav(*adding("interpolate", files, known, smooth, prompt="a cube")).code == 0
    assert tav(*adding("extend", files, known, tmp_path / "b.mp4", video=smooth)).code == 0
    assert made_of(tmp_path / "b.mp4").prompt == "a cube"
    assert len(written[-1][0]) == 7 + 3
    shutil.copy(known, other)
    assert tav(*adding("extend", files, other, tmp_path / "c.mp4", video=smooth)).code == 0
    assert made_of(tmp_path / "c.mp4").prompt == TunedWeights.load(known).facts.prompt
    assert len(written[-1][0]) == 4 + 3


NO_PROMPTS = [json.dumps({KEY: value}) for value in (3, {"prompt": 3}, {"prompt": " "}, {"prompt": "\ud800"})]


@pytest.mark.parametrize("comment", ["", "{", "[]", *NO_PROMPTS, "[" * 100_000])
def test_other_comments_say_no_prompt(comment, tmp_path):
    write_video(tmp_path / "a.mp4", torch.zeros(2, 16, 16, 3), 8, comment=comment)
    assert made_of(tmp_path / "a.mp4") is None


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm"])
@pytest.mark.parametrize("prompt", ["a \"quoted\" 'ball' \\(1\\);#=\n", "猫 🐼 \0", "long " * 2000])
def test_a_video_still_says_its_prompt_when_it_is_in_another_container(prompt, suffix, tmp_path):
    made = made_with(prompt, FillConfig(), tmp_path / "ball.safetensors")
    write_video(tmp_path / "a.mp4", torch.zeros(2, 16, 16, 3), 8, comment=made)
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    with av.open(str(tmp_path / "a.mp4")) as source, av.open(str(tmp_path / f"b.{suffix}"), "w") as target:
        target.metadata.update(source.metadata)
        stream = target.add_stream(codec, rate=8)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for frame in source.decode(video=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    assert made_of(tmp_path / f"b.{suffix}").prompt == prompt


def test_a_comment_names_the_weights_but_not_their_folder(tmp_path, monkeypatch):
    (tmp_path / "unet").mkdir()
    monkeypatch.chdir(tmp_path / "unet")
    for path in (".", "../unet", tmp_path / "unet"):
        assert json.loads(made_with("a ball", FillConfig(), Path(path)))[KEY]["weights"] == "unet"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in the file system are of POSIX systems")
def test_a_pipe_is_refused_at_once(tuned, tmp_path):  # noqa: F811
    os.mkfifo(tmp_path / "a.mp4")
    words = adding("extend", tuned, tuned / "ball.safetensors", tmp_path / "b.mp4", video=tmp_path / "a.mp4")
    command = [sys.executable, "-m", "tav_core.cli", *map(str, words)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
    assert run.returncode == 2
    assert b"is neither a file nor a folder" in run.stderr


def test_a_window_divides_what_the_network_sees(files, known, tmp_path, written):  # noqa: F811
    whole, divided = tmp_path / "whole.mp4", tmp_path / "divided.mp4"
    assert tav(*adding("interpolate", files, known, whole)).code == 0
    assert tav(*adding("interpolate", files, known, divided, window=4)).code == 0
    (first, _), (second, _) = written
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_weights_without_known_frames_make_them_from_a_guess_alone(tuned, tmp_path, written):  # noqa: F811
    weights, clip = tuned / "ball.safetensors", of_clip(tuned).frames
    for command in ("interpolate", "extend"):
        outcome = tav(*adding(command, tuned, weights, tmp_path / "a.mp4"))
        assert outcome.code == 0, outcome.err
        for options, advice in (
            ({"guess": "none"}, "leave out --guess none, or tune the clip with --known-frames."),
            ({"trust": 0}, "--trust 0 of 2 steps replaces none, so raise --trust or --steps, or tune"),
            ({"trust": 0.2}, "--trust 0.2 of 2 steps replaces none"),
        ):
            outcome = tav(*adding(command, tuned, weights, tmp_path / "b.mp4", **options))
            assert_refused(outcome, f"was tuned without known frames, so it cannot make frames from noise; {advice}")
    (smooth, _), (longer, _) = written
    assert torch.equal(smooth[::2], clip)
    assert torch.equal(longer[:4], clip)


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("interpolate", {"factor": 1}, "factor must be a whole number from 2 to 8; got 1"),
        ("interpolate", {"factor": 9}, "factor must be a whole number from 2 to 8; got 9"),
        ("interpolate", {"trust": 1}, "trust must be from 0 to below 1; got 1"),
        ("interpolate", {"use": 1}, "nothing between the frames of a video of one frame"),
        ("interpolate", {"window": 8}, "The window has 8 frames, but 4 become only 7; give at most 7"),
        ("interpolate", {"steps": 0}, "num_steps must be"),
        ("extend", {"frames": 0}, "frames must be at least 1 frame to add; got 0"),
        ("extend", {"use": 1}, "at least 2 frames to go on from, got 1"),
        ("extend", {"trust": 1}, "trust must be from 0 to below 1; got 1"),
        ("extend", {"correction": -0.1}, "correction must be from 0 to below 1"),
        ("extend", {"direction": "loop", "frames": 1, "use": 2}, "A loop needs windows of at least 3 frames"),
        ("extend", {"direction": "loop", "correction": 0.5}, "no drift to correct; leave out the correction"),
        (
            "extend",
            {"direction": "loop", "frames": 3},
            "from 1 to 2, to close a loop in a window of 4 frames; got 3",
        ),
        ("extend", {"window": 5}, "The window has 5 frames, but the clip has only 4"),
        ("extend", {"prompt": " "}, "The prompt is empty"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(files, known, tmp_path, command, options, message):  # noqa: F811
    assert_refused(tav(*adding(command, files, known, tmp_path / "a.mp4", **options)), message)
    assert not (tmp_path / "a.mp4").exists()


def test_the_result_replaces_neither_the_video_nor_another_kind_of_file(files, known, tmp_path):  # noqa: F811
    outcome = tav(*adding("extend", files, known, files / "ball.mp4"))
    assert_refused(outcome, "would take the place of")
    (tmp_path / "sub").mkdir()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "ball.mp4").write_bytes((files / "ball.mp4").read_bytes())
    for taken in (tmp_path / "sub" / ".." / "ball.mp4", tmp_path / "folder.mp4"):
        outcome = tav(*adding("extend", files, known, taken, video=tmp_path / "ball.mp4"))
        assert_refused(outcome, "would take the place of")
    assert (tmp_path / "ball.mp4").read_bytes() == (files / "ball.mp4").read_bytes()
    outcome = tav(*adding("extend", files, known, tmp_path / "longer.gif"))
    assert_refused(outcome, "it will be an mp4")


def test_a_rate_that_no_video_has_is_told_before_any_work(files, known, tmp_path):  # noqa: F811
    frames = [frame.numpy() for frame in (255 * of_clip(files).frames).byte()]
    encode(tmp_path / "fast.mp4", frames, fps=240)
    outcome = tav(*adding("interpolate", files, known, tmp_path / "a.mp4", video=tmp_path / "fast.mp4", factor=8))
    assert_refused(outcome, "1920 frames a second, but a video has at most 1000; give a lower --factor")


@pytest.mark.parametrize(
    ("task", "frames"),
    [
        (Between(2, trust=0.5), 3),
        (Between(2, "average", 0.5), 0),
        (Onwards(3, trust=0.5), 3),
        (Onwards(3, guess="none"), 0),
    ],
    ids=["interpolate", "average", "extend", "none"],
)
def test_a_guess_by_flow_and_writing_are_parts_of_the_progress(files, known, tmp_path, task, frames):  # noqa: F811
    steps, given = [], (files / "ball.mp4", known, files / "sd.safetensors", tmp_path / "more.mp4", task)
    config = filling.FillConfig(num_steps=4)
    run = filling.prepare_filling(*given, config=config, device=torch.device("cpu"))
    run.run(lambda step, total, *, part, **_: steps.append((part, step, total)))
    total = next(of for part, _, of in steps if part == "frames")
    parts = {"guess": frames, "frames": total, "writing": run.count}
    assert steps == [(part, step + 1, of) for part, of in parts.items() for step in range(of)]


def test_frames_are_made_as_the_checkpoint_was_tuned_to_predict(files, tmp_path, monkeypatch):  # noqa: F811
    weights = tmp_path / "v.safetensors"
    outcome = tav(*tuning(files, weights, known_frames=True, steps=1, prediction_type="v_prediction"))
    assert outcome.code == 0, outcome.err
    jobs, run = [], filling.FillingRun.run
    monkeypatch.setattr(filling.FillingRun, "run", lambda job, on_step: (jobs.append(job), run(job, on_step))[1])
    assert tav(*adding("extend", files, weights, tmp_path / "a.mp4")).code == 0
    assert jobs[0].checkpoint.scheduler.config.prediction_type == "v_prediction"


def test_windows_overlap_so_that_each_new_frame_sees_both_of_its_neighbours():
    for factor in (2, 4, 8):
        task = Between(factor)
        places, length = task.places(6), 12
        windows = Windows(length, task.overlap(length)).over(len(places))
        for number, place in enumerate(places):
            before = number - number % factor
            assert place is not None or any({before, number, before + factor} <= set(window) for window in windows)


def test_another_number_of_frames_than_was_tuned_on_is_told(files, known, tmp_path):  # noqa: F811
    said = tav(*adding("extend", files, known, tmp_path / "a.mp4", use=3)).err
    assert "ball.mp4 is read with 3 frames; the weights were tuned on 4." in said


def test_a_guess_is_the_optical_flow_s(files, known, tmp_path, written):  # noqa: F811
    """Trusted for all steps but the last, it shows in what comes out."""
    clip, options = of_clip(files).frames, {"steps": 50, "trust": 0.98}
    assert tav(*adding("interpolate", files, known, tmp_path / "smooth.mp4", factor=3, **options)).code == 0
    assert tav(*adding("extend", files, known, tmp_path / "longer.mp4", **options)).code == 0
    assert tav(*adding("extend", files, known, tmp_path / "noise.mp4", guess="none", **options)).code == 0
    (smooth, _), (longer, _), (noise, _) = written
    vae = load_checkpoint(files / "sd.safetensors")
    flow = torch.stack(list(continued_by_flow(clip, 3, "onwards")))
    through = vae.decode_video(vae.encode_video(flow))
    assert (longer[4:] - through).abs().mean() < 0.6 * (longer[4:] - through.flip(2)).abs().mean()
    assert worst(noise[4:], longer[4:]) > 0.1

    # in between, the network corrects the flow's own pixels, which do not pass through the VAE
    flow, new = torch.stack(list(interpolated_by_flow(clip, 3))), [1, 2, 4, 5, 7, 8]
    through = vae.decode_video(vae.encode_video(flow))
    assert 0 < (smooth - flow)[new].abs().mean() < 0.5 * (through - flow)[new].abs().mean()
