"""A VIDEO socket's clip, wherever its bytes are and however it is trimmed, gives the frames that the host sees."""

import io
from fractions import Fraction

import pytest
import torch
from PIL import Image

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


def test_what_is_transparent_in_a_video_made_of_frames_is_black():
    types = core("comfy_api.latest")
    images = torch.full((2, 48, 64, 4), 0.8)
    images[:, :, :32, 3], images[:, :, 32:, 3] = 0, 1
    clip = types.InputImpl.VideoFromComponents(types.Types.VideoComponents(images=images, frame_rate=Fraction(12)))
    with pack("nodes.host.clips").opened(clip) as source:
        for image in source.frames([0, 1]):
            assert image[:, :32].max() == 0
            assert (image[:, 32:] == 204).all()


def test_a_frame_that_is_no_number_is_refused():
    types = core("comfy_api.latest")
    images = torch.full((3, 48, 64, 3), 0.8)
    images[1, 2, 3, 0] = torch.nan
    clip = types.InputImpl.VideoFromComponents(types.Types.VideoComponents(images=images, frame_rate=Fraction(12)))
    assert len(numbers_in(clip, 2)) == 2  # frames 0 and 2
    with pytest.raises(ValueError, match=r"Frame 1 .* NaN"):
        numbers_in(clip, 3)


def test_frames_are_spread_over_the_time_within_the_trim(tmp_path):
    times = [*range(0, 6000, 1000), *range(6000, 8000, 50)]  # milliseconds: a frame a second, then twenty
    path = clips.encode(tmp_path / "clip.mp4", [clips.numbered(8)[time // 1000] for time in times], times=times)
    assert numbers_in(video(str(path)), 8) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert numbers_in(video(str(path)), 8, by_time=False)[:3] == [0, 6, 6]
    assert numbers_in(video(str(path), start_time=2.0, duration=5.0), 5) == [2, 3, 4, 5, 6]


def test_an_animated_webp_of_the_hosts_is_read(tmp_path):
    first, *others = map(Image.fromarray, clips.numbered(9))
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=100, lossless=True)
    assert numbers_in(video(str(tmp_path / "a.webp")), 9) == list(range(9))
    assert numbers_in(video(io.BytesIO((tmp_path / "a.webp").read_bytes())), 3) == [0, 4, 8]


def test_a_clip_whose_file_is_gone_is_told(tmp_path):
    with pytest.raises(ValueError, match="is gone"):
        numbers_in(video(str(tmp_path / "a.mp4")))


def test_a_trim_that_leaves_nothing_is_refused(file):
    with pytest.raises(ValueError, match="trimmed to nothing"):
        numbers_in(video(str(file), start_time=30.0))
