"""The sound that a video is written with, as one hears it in the file."""

import math

import pytest
import torch

from tav_core.video.read import read_frames
from tav_core.video.sound import Sound, read_sound
from tav_core.video.write import write_video
from tests import clips

FPS, FRAMES = 8, 12  # 1.5 s
BLOCK = 1024  # samples that AAC codes together


def tone(rate: int, seconds: float, channels: int = 1) -> Sound:
    """A tone of 200 Hz that gets louder, up to 1 after two seconds; each channel is half as loud as the one before."""
    t = torch.arange(round(rate * seconds)) / rate
    loud = t / 2 * torch.sin(2 * math.pi * 200 * t)
    return Sound(torch.stack([loud / 2**channel for channel in range(channels)]), rate)


def written(path, sound: Sound | None) -> Sound | None:
    write_video(path, torch.rand(FRAMES, 16, 16, 3), FPS, sound=sound)
    assert len(read_frames(path, 99, size=16, at_most=True).frames) == FRAMES
    return read_sound(path, 0, 10)


@pytest.mark.parametrize(("rate", "becomes"), [(48000, 48000), (8000, 8000), (37800, 48000), (192000, 48000)])
@pytest.mark.parametrize(("channels", "heard"), [(1, 1), (2, 2), (3, 2), (6, 6)])
def test_it_comes_back(tmp_path, rate, becomes, channels, heard):
    sound = written(tmp_path / "a.mp4", tone(rate, 1.5, channels))
    assert sound.rate == becomes
    assert sound.samples.shape[0] == heard
    assert sound.samples.shape[1] / becomes == pytest.approx(1.5, abs=2 * BLOCK / becomes)
    expected = tone(becomes, 1.5, heard).samples
    for own, its in zip(sound.samples, expected[: min(heard, 3)], strict=False):  # the fourth of 5.1 is for low tones
        length = min(len(own), len(its))
        assert torch.corrcoef(torch.stack([own[:length], its[:length]]))[0, 1] > 0.99
        assert own.std().item() == pytest.approx(its.std().item(), rel=0.1)


def test_it_ends_with_the_frames_or_before(tmp_path):
    for seconds in (0.5, 5):
        sound = written(tmp_path / "a.mp4", tone(8000, seconds))
        assert sound.samples.shape[1] / 8000 == pytest.approx(min(seconds, 1.5), abs=2 * BLOCK / 8000)
    assert written(tmp_path / "a.mp4", None) is None
    assert written(tmp_path / "a.mp4", tone(8000, 0)) is None


def test_what_is_not_finite_is_silent_and_what_is_too_loud_is_clipped(tmp_path):
    spoiled = tone(8000, 1.5)
    spoiled.samples[:, 4000:8000] = math.nan
    spoiled.samples[:, 8000:] *= 100
    sound = written(tmp_path / "a.mp4", spoiled)
    assert sound.samples.isfinite().all()
    assert sound.samples[:, 5000:7000].abs().max() < 0.05
    assert 0.9 < sound.samples[:, 9000:11000].abs().max() < 1.5


def test_frames_know_when_the_first_is_shown(tmp_path):
    path = clips.with_sound(tmp_path / "loud.mkv", 40, fps=20)
    clip = read_frames(path, 5, size=(64, 48), start=10, stride=4)
    assert (clip.start, clip.seconds) == pytest.approx((0.5, 1.0))
    samples = read_sound(path, clip.start, clip.seconds).samples[0]
    assert (4 * samples[0].item(), 4 * samples[-1].item()) == pytest.approx((0.5, 1.5), abs=0.01)
    early = read_sound(path, -0.25, 0.5)  # nothing is heard before the file begins
    assert early.samples.shape == (1, 4000)
    assert early.samples[:, :2000].abs().max() == 0
    assert early.samples[:, 3000:].min() > 0.02


def test_pictures_have_no_sound(tmp_path):
    assert read_sound(tmp_path, 0, 1) is None
    assert read_sound(clips.encode(tmp_path / "a.gif", clips.numbered(3), codec="gif", pix_fmt="rgb8"), 0, 1) is None
