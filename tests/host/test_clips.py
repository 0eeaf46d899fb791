"""A VIDEO socket's clip, wherever its bytes are and however it is trimmed, gives the frames that the host sees."""

import io
from fractions import Fraction

import pytest
import torch

from tests import clips
from tests.host.inprocess import core, pack

COUNT, FPS = 40, 30
HOW = {"size": (64, 48)}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return clips.encode(tmp_path_factory.mktemp("clips") / "numbered.mp4", clips.numbered(COUNT), fps=FPS)


@pytest.fixture(autouse=True)
def temp_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(core("folder_paths"), "temp_directory", str(tmp_path / "temp"))
    return tmp_path / "temp"


def video(source, **trim):
    return core("comfy_api.latest").InputImpl.VideoFromFile(source, **trim)


def numbers_in(clip, num_frames=None, **how) -> list[int]:
    with pack("nodes.host.clips").opened(clip) as source:
        images, _ = pack("tav_core.video.read").take_frames(source, num_frames or source.num_frames, **HOW | how)
    return [clips.number_in(image.numpy()) for image in images]


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize(
    "trim",
    [
        {},
        {"start_time": 0.5},
        {"duration": 0.5},
        {"start_time": 0.1, "duration": 0.2},  # whose sum is a little more than 0.3
        {"start_time": 0.7, "duration": 0.1},
        {"start_time": 0.3333, "duration": 0.3333},
        {"start_time": -0.5},  # counted from the end
        {"start_time": -0.5, "duration": 0.2},
    ],
    ids=str,
)
def test_a_trim_is_the_hosts(file, trim, in_memory, temp_folder):
    clip = video(io.BytesIO(file.read_bytes()) if in_memory else str(file), **trim)
    theirs = [clips.number_in(image.numpy()) for image in clip.get_components().images]
    assert numbers_in(clip) == theirs
    assert len(theirs) == COUNT or trim
    assert not list(temp_folder.rglob("clip"))  # what was written there to be read is gone


def test_frames_are_chosen_within_the_trim(file):
    clip = video(str(file), start_time=0.5, duration=0.5)
    assert numbers_in(clip, 3) == [15, 22, 29]
    assert numbers_in(clip, 3, start=1, stride=2) == [16, 18, 20]


def test_a_video_made_of_frames_is_read_as_it_is(file):
    types = core("comfy_api.latest")
    images = torch.stack([torch.from_numpy(frame) / 255 for frame in clips.numbered(9)])
    clip = types.InputImpl.VideoFromComponents(types.Types.VideoComponents(images=images, frame_rate=Fraction(12)))
    assert numbers_in(clip, 3) == [0, 4, 8]
    with pack("nodes.host.clips").opened(clip) as source:
        assert source.fps == 12
    trimmed = clip.as_trimmed(start_time=0.25, duration=0.25)
    assert numbers_in(trimmed) == [clips.number_in(image.numpy()) for image in trimmed.get_components().images]


def test_a_trim_that_leaves_nothing_is_refused(file):
    with pytest.raises(ValueError, match="trimmed to nothing"):
        numbers_in(video(str(file), start_time=30.0))
