"""The sound that a video is written with, as one hears it in the file."""

import math
from fractions import Fraction

import av
import pytest
import torch

from tav_core.errors import TavError
from tav_core.video import sound as reading
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


@pytest.mark.parametrize("rate", [48000, 8000])
@pytest.mark.parametrize("channels", [1, 2])
def test_it_comes_back(tmp_path, rate, channels):
    given = tone(rate, 1.5, channels)
    sound = written(tmp_path / "a.mp4", given)
    assert sound.rate == rate
    assert sound.samples.shape[0] == channels
    assert sound.samples.shape[1] / rate == pytest.approx(1.5, abs=2 * BLOCK / rate)
    for own, its in zip(sound.samples, given.samples, strict=True):
        assert alike(own, its)


def alike(own, its) -> bool:
    length = min(len(own), len(its))
    own, its = own[:length], its[:length]
    return torch.corrcoef(torch.stack([own, its]))[0, 1] > 0.99 and 0.9 < own.std() / its.std() < 1.1


@pytest.mark.parametrize(
    ("layout", "rate", "becomes"),
    [
        ("stereo", 11024, 48000),
        ("mono", 192000, 48000),
        ("3.0", 44100, 44100),
        ("5.1", 48000, 48000),
        ("7.1", 37800, 48000),
    ],
)
def test_other_layouts_and_rates_are_read_as_what_players_and_hosts_take(tmp_path, layout, rate, becomes):
    """7.1 crashed PyAV; the host's Save Video fails on other channels than one and two, and on rates AAC lacks."""
    path, channels = tmp_path / "a.mkv", av.AudioLayout(layout).nb_channels
    expected = tone(becomes, 1.0).samples[0]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout=layout)
        samples = (tone(rate, 1.0).samples[0] * 32767).to(torch.int16).repeat_interleave(channels)
        frame = av.AudioFrame.from_ndarray(samples[None].numpy(), format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for each in (frame, None):
            container.mux(stream.encode(each))
    sound = read_sound(path, 0, 10)
    assert sound.rate == becomes
    assert len(sound.samples) == min(channels, 2)
    for own in sound.samples:
        assert torch.corrcoef(torch.stack([own[: len(expected)], expected[: len(own)]]))[0, 1] > 0.99
    written(tmp_path / "b.mp4", sound)


def test_others_than_that_are_refused_before_anything_is_written(tmp_path):
    for sound, said in ((tone(8000, 1, 3), "channels of the sound"), (tone(37800, 1), "rate of the sound")):
        with pytest.raises(TavError, match=said):
            write_video(tmp_path / "a.mp4", torch.rand(2, 16, 16, 3), 8, sound=sound)
        assert not (tmp_path / "a.mp4").exists()


def test_a_damaged_packet_is_silent_and_the_rest_is_heard(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, torch.rand(FRAMES, 16, 16, 3), FPS, sound=tone(48000, 1.5))
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    whole, (place, size) = bytearray(path.read_bytes()), packets[len(packets) // 2]
    whole[place : place + size] = bytes(255 for _ in range(size))
    path.write_bytes(whole)
    sound = read_sound(path, 0, 10)
    expected = tone(48000, 1.5).samples[0]
    for part in (slice(0, 24000), slice(48000, 70000)):
        assert alike(sound.samples[0, part], expected[part])


def test_it_begins_where_it_should_in_the_middle_of_a_file(tmp_path):
    """AAC's blocks overlap: the first after a seek is wrong without the one before."""
    path = tmp_path / "a.mp4"
    write_video(path, torch.rand(FRAMES, 16, 16, 3), FPS, sound=tone(48000, 1.5))
    part, expected = read_sound(path, 0.5, 0.5).samples[0], tone(48000, 1.5).samples[0, 24000:48000]
    assert len(part) == len(expected)
    assert (part - expected).abs()[:2000].max() < 0.05


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


def test_no_more_is_read_than_fits_in_memory(tmp_path, monkeypatch):
    """Frames that are spread over a film are shown for as long as the film."""
    path = clips.with_sound(tmp_path / "loud.mkv", 40, fps=20)
    assert read_sound(path, 0, 1e9).samples.shape[1] == 16000
    monkeypatch.setattr(reading, "LONGEST", 0.5)
    assert read_sound(path, 0, 1e9).samples.shape[1] == 4000
