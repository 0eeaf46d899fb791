"""Clips whose frames are not one whole image every so often: interlaced, at a varying rate, or animated WebP."""

import gc
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from tav_core.errors import TavError
from tav_core.jobs.control_choice import control_images
from tav_core.jobs.selection import Selection
from tav_core.video.choose import choose_frames, pace, rate_varies, select_frames
from tav_core.video.pixels import to_float
from tav_core.video.read import read_frames
from tav_core.video.source import open_source
from tests.clips import encode, number_in, numbered, set_exif_orientation

SIZE = (64, 48)


def numbers(frames) -> list[int]:
    return [number_in(frame) for frame in frames]


# Varying rate

CROWDED = [*range(6), *(6 + i / 30 for i in range(60))]  # seconds: six frames of a second, then 30 a second
"""Chosen by number, seven of eight frames are of the last two seconds."""


def crowded(path):
    """Each frame shows the second in which it is displayed."""
    pictures = numbered(8)
    return encode(path, [pictures[int(moment)] for moment in CROWDED], times=[round(1000 * t) for t in CROWDED])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_frames_are_spread_over_time_where_the_rate_varies(tmp_path, name):
    path = crowded(tmp_path / name)
    clip = read_frames(path, 8, size=SIZE)
    assert numbers(clip.frames) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert clip.by_time
    assert clip.fps == pytest.approx(7 / (CROWDED[-1] - CROWDED[0]), rel=1e-3)
    by_number = read_frames(path, 8, size=SIZE, by_time=False)
    assert numbers(by_number.frames) == [0, 6, 6, 6, 7, 7, 7, 7]
    assert not by_number.by_time


def test_a_frame_that_stays_is_taken_as_often_as_it_is_on_screen(tmp_path):
    clip = read_frames(crowded(tmp_path / "clip.mp4"), 24, size=SIZE)
    seconds = numbers(clip.frames)
    assert seconds == sorted(seconds)
    assert all(seconds.count(second) in (3, 4) for second in range(7))


def test_a_stride_and_a_wish_for_all_frames_count_frames(tmp_path):
    path = crowded(tmp_path / "clip.mp4")
    for how in ({"num_frames": 12, "stride": 5}, {"num_frames": len(CROWDED)}, {"num_frames": 500, "at_most": True}):
        assert not read_frames(path, size=SIZE, **how).by_time
    assert numbers(read_frames(path, 3, size=SIZE, stride=5).frames) == [0, 5, 6]
    with pytest.raises(TavError, match="stride"):
        read_frames(path, 3, size=SIZE, stride=5, by_time=True)


@pytest.mark.parametrize(
    ("how", "fps"),
    [
        ({"num_frames": 12, "start": 6, "stride": 5}, 6),
        ({"num_frames": 60, "start": 6}, 30),
        ({"num_frames": 5, "stride": 1}, 1),
        ({"num_frames": 3, "stride": 10}, 20 / 6.5 / 10),
    ],
    ids=str,
)
def test_the_rate_is_that_of_the_chosen_part(tmp_path, how, fps):
    clip = read_frames(crowded(tmp_path / "clip.mp4"), size=SIZE, **how)
    assert not clip.by_time
    assert clip.fps == pytest.approx(fps, rel=0.02)


def test_a_stated_rate_holds_where_times_are_rounded_unknown_few_or_jump():
    rounded = [round(number / 30, 3) for number in range(90)]
    jump = [number / 30 + 3600 * (number >= 50) for number in range(100)]
    for moments in (rounded, [None] * 9, [0.0, 0.5, 1.0], jump):
        assert pace(moments, 30.0) == 30


def test_at_an_even_pace_frames_are_chosen_by_number_unless_asked_otherwise():
    moments = [number / 30 for number in range(90)]
    rounded = [round(moment, 3) for moment in moments]  # as mkv stores them
    dropped = [moment for number, moment in enumerate(moments) if number != 40]
    for times in (moments, rounded, dropped):
        assert not rate_varies(times)
        assert choose_frames(times, 24) == (select_frames(len(times), 24), False)
        chosen, by_time = choose_frames(times, 24, 3, by_time=True)
        assert by_time
        assert chosen[0] == 3
        assert all(abs(a - b) <= 1 for a, b in zip(chosen, select_frames(len(times), 24, 3), strict=True))


def test_a_jump_of_the_clock_is_no_frame_that_stays():
    joined = [*(number / 30 for number in range(50)), *(3600 + number / 30 for number in range(50))]
    assert choose_frames(joined, 10) == (select_frames(100, 10), False)


def test_without_times_there_is_no_choice_by_time():
    assert choose_frames([None] * 9, 3) == (select_frames(9, 3), False)
    with pytest.raises(TavError, match="does not say when"):
        choose_frames([0.0, None, 1.0], 2, by_time=True)


def test_control_images_stay_with_the_frames_that_they_are_of(tmp_path):
    """A preprocessor writes them at an even pace."""
    crowded(tmp_path / "clip.mp4")
    encode(tmp_path / "poses.mp4", numbered(len(CROWDED), 128, 96))
    selection = Selection(tmp_path / "clip.mp4", frames=8, size=SIZE)
    images = control_images(tmp_path / "poses.mp4", Selection(tmp_path / "clip.mp4", frames=8, size=(128, 96)), [])
    assert [int(CROWDED[number]) for number in numbers(to_float(images))] == numbers(to_float(selection.read().frames))


# Interlaced


def bar(left: int) -> np.ndarray:
    image = np.full((96, 128, 3), 30, np.uint8)
    image[:, left : left + 24] = 220
    return image


def interlaced(path, codec: str, **options):
    """A bar that moves by 4 pixels from field to field."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "5", **options})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(11):
            image = bar(8 * number)
            image[1::2] = bar(8 * number + 4)[1::2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def combs(image: np.ndarray) -> float:
    """How far rows are from the mean of their neighbours."""
    return float(np.abs(image[1:-1] - (image[:-2] + image[2:]) / 2).mean())


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"x264-params": "tff=1", "crf": "8"}),
        ("a.mpg", "mpeg2video", {"flags": "+ildct+ilme", "q": "2"}),
    ],
)
@pytest.mark.parametrize("chosen", [range(11), [0, 4, 5, 10], [10]], ids=str)
def test_interlaced_frames_lose_their_combs_and_stay_where_they_were(tmp_path, name, codec, options, chosen):
    source = open_source(interlaced(tmp_path / name, codec, **options))
    images = list(source.frames(list(chosen)))
    assert len(images) == len(chosen)
    for number, image in zip(chosen, images, strict=True):
        assert combs(image[..., 0].astype(float)) < 0.01 * 220  # 12 with combs
        middle = np.flatnonzero(image[48, :, 0] > 128).mean()
        assert abs(middle - (8 * number + 13)) <= 2.5


def test_interlaced_frames_are_let_go_without_waiting_for_the_garbage_collector(tmp_path):
    source = open_source(interlaced(tmp_path / "a.mpg", "mpeg2video", flags="+ildct+ilme", q="2"))
    gc.collect()
    gc.disable()
    try:
        for _ in source.frames(range(11)):
            pass
        living = sum(type(thing) is av.VideoFrame and thing.width > 0 for thing in gc.get_objects())
    finally:
        gc.enable()
    assert living <= 2  # of eleven; one whose side data was read, and its last neighbour


def test_whole_frames_are_not_filtered(tmp_path, monkeypatch):
    monkeypatch.setattr(av.filter, "Graph", lambda: pytest.fail("filtered"))
    assert numbers(read_frames(encode(tmp_path / "a.mp4", numbered(9)), 9, size=SIZE).frames) == list(range(9))


# Animated WebP


def webp(path, *, duration=100, **settings):
    first, *others = (Image.fromarray(picture) for picture in numbered(9))
    first.save(path, save_all=True, append_images=others, duration=duration, lossless=True, **settings)
    return path


def test_an_animated_webp_is_a_video(tmp_path):
    path = webp(tmp_path / "host.webp")
    clip = read_frames(path, 9, size=SIZE)
    assert numbers(clip.frames) == list(range(9))
    assert clip.fps == pytest.approx(10)
    part = read_frames(path, 3, size=SIZE, start=1, stride=3)
    assert numbers(part.frames) == [1, 4, 7]
    assert part.fps == pytest.approx(10 / 3)
    with pytest.raises(TavError, match="only 9 of 9 frames"):
        read_frames(path, 10, size=SIZE)


def test_its_frames_last_as_long_as_it_says(tmp_path):
    path = webp(tmp_path / "slow.webp", duration=[1000] * 4 + [100] * 5)
    assert numbers(read_frames(path, 4, size=SIZE).frames) == [0, 1, 2, 8]


def test_its_transparency_and_its_orientation_are_kept(tmp_path):
    pictures = [Image.fromarray(picture).convert("RGBA") for picture in numbered(13)[4::4]]  # which differ on the right
    for picture in pictures:
        picture.paste((255, 255, 255, 0), (0, 0, 32, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], lossless=True, exif=exif)
    frames = read_frames(tmp_path / "a.webp", 3, size=(48, 64)).frames
    assert frames[:, :32].max() == 0  # what was left is above
    assert frames[:, 32:].amax(dim=(1, 2, 3)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_cut_one_is_damaged(tmp_path, share):
    data = webp(tmp_path / "a.webp").read_bytes()
    (tmp_path / "a.webp").write_bytes(data[: int(share * len(data))])
    with pytest.raises(TavError, match="damaged"):
        read_frames(tmp_path / "a.webp", 2, size=SIZE)


def test_a_still_image_is_read_as_in_a_folder(tmp_path):
    """With the whole of its EXIF orientation, of which FFmpeg tells rotations."""
    picture = numbered(6)[5]
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    set_exif_orientation(tmp_path / "a.jpg", 2)
    (frame,) = read_frames(tmp_path / "a.jpg", 1, size=SIZE).frames
    assert number_in(frame) == number_in(picture[:, ::-1] / 255)
