"""The sound of the frames that Load Video Frames chooses, from wherever a clip comes."""

import io

import pytest
import torch

from tests import clips
from tests.host.inprocess import core, executed, pack

RATE = 8000  # of the sound, per second


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return clips.with_sound(tmp_path_factory.mktemp("clips") / "loud.mkv")


@pytest.fixture
def load(monkeypatch, tmp_path):
    folders = core("folder_paths")
    monkeypatch.setattr(folders, "temp_directory", str(tmp_path / "temp"))
    monkeypatch.setattr(folders, "input_directory", str(tmp_path))

    def load(frames, start=0, stride=0, *, clip=None, video=None):
        node = pack("nodes.load_video_frames").LoadVideoFrames
        return executed(node, video, frames, start, stride, 64, 48, "stretch", clip).args

    return load


def heard(audio) -> tuple[float, float]:
    """The moments of the clip at which a sound begins and ends, as its loudness tells."""
    samples = audio["waveform"][0, 0]
    assert audio["sample_rate"] == RATE
    return 4 * samples[0].item(), 4 * samples[-1].item()


def clip_of(file, kind: str, **trim):
    host = core("comfy_api.latest")
    if kind == "frames":
        video = host.InputImpl.VideoFromFile(str(file), **trim).get_components()
        return host.InputImpl.VideoFromComponents(video)
    return host.InputImpl.VideoFromFile(str(file) if kind == "file" else io.BytesIO(file.read_bytes()), **trim)


@pytest.mark.parametrize("kind", ["file", "bytes", "frames"])
@pytest.mark.parametrize(
    ("frames", "start", "stride", "expected"),
    [
        (8, 0, 0, (0, 2.05)),  # spread over the clip: 8 frames at 3.6 a second, of which the last lasts as long
        (10, 0, 1, (0, 0.5)),
        (10, 20, 1, (1, 1.5)),
        (5, 10, 2, (0.5, 1.0)),
    ],
)
def test_it_is_what_one_hears_while_the_frames_are_shown(load, file, kind, frames, start, stride, expected):
    images, fps, _, audio = load(frames, start, stride, clip=clip_of(file, kind))
    assert heard(audio) == pytest.approx((expected[0], min(expected[1], 2)), abs=0.01)
    assert audio["waveform"].shape[-1] <= round(RATE * len(images) / fps)


@pytest.mark.parametrize("kind", ["file", "bytes"])
def test_it_is_within_the_trim(load, file, kind):
    audio = load(10, 2, 1, clip=clip_of(file, kind, start_time=0.5, duration=1.0))[-1]
    assert heard(audio) == pytest.approx((0.6, 1.1), abs=0.01)


def test_a_file_of_the_input_folder_has_it_too_and_a_silent_one_has_none(load, tmp_path):
    clips.with_sound(tmp_path / "loud.mkv")
    clips.encode(tmp_path / "silent.mp4", clips.numbered(9), fps=8)
    assert heard(load(10, 20, 1, video="loud.mkv")[-1]) == pytest.approx((1, 1.5), abs=0.01)
    assert load(9, video="silent.mp4")[-1] is None


def test_create_video_takes_it_with_the_frames(load, file):
    images, fps, _, audio = load(8, clip=clip_of(file, "file"))
    create = core("comfy_extras.nodes_video").CreateVideo.execute
    for sound in (audio, None):
        with torch.inference_mode():
            video = create(images, fps, sound).args[0]
        assert (video.get_components().audio is None) == (sound is None)
