"""Frames in, frames out: which frames, upright, in the right colours, and one error message for whatever is wrong."""

import gc
import itertools
import re
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tav_core.errors import TavError
from tav_core.video import decode, write
from tav_core.video.choose import FITS, select_frames
from tav_core.video.frames import rgb
from tav_core.video.pixels import to_uint8
from tav_core.video.read import read_frames
from tav_core.video.write import write_video
from tests.clips import colours, encode, number_in, numbered, set_display_matrix, set_edit_list, set_exif_orientation

SHARED = Path(__file__).parents[3] / "shared" / "clips"
SIZE = (64, 48)
B_FRAMES = {"crf": "10", "g": "12", "bf": "3"}
OPEN_GOP = {"crf": "10", "x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0:scenecut=0"}
INTRA_REFRESH = {"crf": "10", "x264-params": "intra-refresh=1:keyint=12:bframes=0:ref=1"}
HEVC = {"crf": "8", "x265-params": "log-level=none:keyint=12:bframes=3:open-gop=1"}
VPX = {"crf": "10", "b": "2M", "g": "20", "lag-in-frames": "16", "auto-alt-ref": "1"}
MPEG = {"bf": "2", "g": "12", "q": "2"}

needs = {name: pytest.mark.skipif(name not in av.codecs_available, reason=f"no {name}") for name in ("libx265",)}


def tensor(pictures) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).float() / 255


def numbers(clip) -> list[int]:
    return [number_in(frame) for frame in clip.frames]


def refuses(call, *needles: str) -> str:
    """Calls, and gives the TavError's message once it is one line that holds the needles."""
    with pytest.raises(TavError) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert not re.search(r"\. [A-Z]", message)
    for needle in needles:
        assert needle in message
    return message


# Which frames


@given(st.integers(1, 3000), st.integers(1, 300), st.integers(0, 3000), st.integers(0, 50))
def test_a_selection_starts_at_start_increases_and_stays_within_the_video(total, num_frames, start, stride):
    available = len(range(start, total, stride or 1))
    if available < num_frames:
        with pytest.raises(TavError):
            select_frames(total, num_frames, start, stride)
        return
    chosen = select_frames(total, num_frames, start, stride)
    assert len(chosen) == num_frames
    assert chosen[0] == start
    assert chosen[-1] < total
    assert all(a < b for a, b in itertools.pairwise(chosen))
    if stride:
        assert chosen == list(range(start, total, stride)[:num_frames])
    elif num_frames > 1:
        assert chosen[-1] == total - 1
        assert chosen == [round(x) for x in np.linspace(start, total - 1, num_frames)]


def test_a_selection_that_cannot_be_made_says_what_can():
    refuses(lambda: select_frames(10, 24), "24", "only 10 of 10 frames", "ask for 10")
    refuses(lambda: select_frames(10, 4, start=3, stride=3), "only 3 of 10 frames", "stride 3", "lower the stride")
    refuses(lambda: select_frames(10, 1, start=10), "start is 10", "10 frames")
    refuses(lambda: select_frames(10, 0), "0 frames are asked for")
    refuses(lambda: select_frames(10, 2, start=-1), "start is -1")
    refuses(lambda: select_frames(10, 2, stride=-2), "stride is -2")
    for value in (2.0, "2", None):
        for name in ("num_frames", "start", "stride"):
            refuses(
                lambda name=name, value=value: select_frames(10, **{"num_frames": 2, name: value}),
                f"{name.removeprefix('num_')} is {value!r}",
            )


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("b-frames.mp4", {"options": B_FRAMES}),
        ("b-frames.mov", {"options": B_FRAMES}),
        ("b-frames.mkv", {"options": B_FRAMES}),
        ("b-frames.avi", {"options": B_FRAMES}),
        ("raw.h264", {"options": B_FRAMES, "container_format": "h264"}),
        ("open-gop.mp4", {"options": OPEN_GOP}),
        ("open-gop.mkv", {"options": OPEN_GOP}),
        ("intra-refresh.mkv", {"options": INTRA_REFRESH}),
        ("late.mp4", {"options": B_FRAMES, "first": 100}),
        ("late.mkv", {"options": B_FRAMES, "first": 100}),
        ("late.ts", {"options": B_FRAMES, "first": 100}),
        pytest.param("open-gop.hevc.mp4", {"codec": "libx265", "options": HEVC}, marks=needs["libx265"]),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": VPX}),
        ("vp8.webm", {"codec": "libvpx", "options": VPX}),
        ("mpeg4.avi", {"codec": "mpeg4", "options": MPEG}),
        ("mpeg2.mpg", {"codec": "mpeg2video", "options": MPEG, "fps": 25}),
        ("motion.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {"q": "2"}}),
        ("palette.gif", {"codec": "gif", "pix_fmt": "rgb8", "fps": 25}),
    ],
)
def test_frame_i_is_the_ith_frame_displayed(tmp_path, name, how):
    codec = how.get("codec", "libx264")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = encode(tmp_path / name, numbered(60), **how)
    assert numbers(read_frames(path, 60, size=SIZE)) == list(range(60))
    assert numbers(read_frames(path, 7, size=SIZE)) == select_frames(60, 7)
    strided = read_frames(path, 5, size=SIZE, start=7, stride=9)
    assert numbers(strided) == [7, 16, 25, 34, 43]
    if name != "raw.h264":  # which stores no rate
        assert strided.fps == pytest.approx(how.get("fps", 24) / 9)


def test_an_edit_list_hides_the_frames_that_it_cuts_away(tmp_path):
    path = set_edit_list(encode(tmp_path / "clip.mp4", numbered(60), options=B_FRAMES), first=17, count=30, fps=24)
    assert numbers(read_frames(path, 30, size=SIZE)) == list(range(17, 47))
    assert numbers(read_frames(path, 4, size=SIZE)) == [17, 27, 36, 46]
    refuses(lambda: read_frames(path, 31, size=SIZE), "only 30 of 30 frames")


def test_a_video_whose_seeks_lead_astray_is_read_from_the_start(tmp_path, monkeypatch):
    path = encode(tmp_path / "clip.mp4", numbered(60), options=B_FRAMES)

    def astray(container, stream, keyframe):
        container.seek(keyframe * 2, stream=stream)
        yield from container.demux(stream)

    monkeypatch.setattr(decode, "_packets_from", astray)
    assert numbers(read_frames(path, 7, size=SIZE)) == select_frames(60, 7)


def test_frames_of_a_variable_rate_video_can_be_counted(tmp_path):
    times = [int(1000 * (i / 10) ** 1.5) for i in range(60)]
    for name in ("clip.mp4", "clip.mkv"):
        path = encode(tmp_path / name, numbered(60), times=times)
        clip = read_frames(path, 7, size=SIZE, by_time=False)
        assert numbers(clip) == select_frames(60, 7)
        assert clip.fps == pytest.approx(6 / (times[-1] / 1000), rel=1e-3)


def test_the_fps_keeps_the_speed_of_the_motion(tmp_path):
    path = encode(tmp_path / "clip.mkv", numbered(31), fps=Fraction(30000, 1001), options=B_FRAMES)
    assert read_frames(path, 31, size=SIZE).fps == pytest.approx(30000 / 1001)
    assert read_frames(path, 2, size=SIZE).fps == pytest.approx(1000 / 1001)
    assert read_frames(path, 4, size=SIZE, start=3, stride=2).fps == pytest.approx(15000 / 1001)
    assert read_frames(path, 1, size=SIZE).fps == pytest.approx(30000 / 1001)


def test_a_video_of_one_frame_is_a_clip_of_one_frame(tmp_path):
    path = encode(tmp_path / "clip.mp4", numbered(1))
    frames, fps = read_frames(path, 1, size=SIZE)
    assert frames.shape == (1, 48, 64, 3)
    assert frames.dtype == torch.float32
    assert fps == 24
    refuses(lambda: read_frames(path, 2, size=SIZE), "only 1 of 1 frames")


def test_a_long_video_is_sought_through_and_only_its_chosen_frames_are_held(tmp_path, monkeypatch):
    path = encode(tmp_path / "clip.mp4", numbered(600, 320, 240), options={"crf": "20", "g": "50"})
    converted, decoded = [], []
    timed = decode.VideoFile._timed
    monkeypatch.setattr(decode, "rgb", lambda *args: converted.append(1) or rgb(*args))
    monkeypatch.setattr(decode.VideoFile, "_timed", lambda *args: (decoded.append(1) or pair for pair in timed(*args)))
    tracemalloc.start()
    clip = read_frames(path, 8, size=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(clip.frames) == len(converted) == 8
    assert len(decoded) < 8 * 50
    assert peak < 4 * 320 * 240 * 3


def test_frames_are_let_go_without_waiting_for_the_garbage_collector(tmp_path):
    def living() -> int:
        return sum(type(thing) is av.VideoFrame and thing.width > 0 for thing in gc.get_objects())

    path = encode(tmp_path / "clip.mp4", numbered(60), options=B_FRAMES)
    images = folder(tmp_path / "frames", {f"{i}.png": picture for i, picture in enumerate(numbered(20))})
    gc.collect()
    gc.disable()
    try:
        for source in (set_display_matrix(path, 0, 1, -1, 0), images):
            before = living()
            read_frames(source, 20, size=SIZE)
            assert living() - before <= 1  # whose side data was read
    finally:
        gc.enable()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the four real clips are not here")
@pytest.mark.parametrize(
    ("name", "count", "fps"),
    [
        ("man-skiing", 91, 30000 / 1001),
        ("car-turn", 80, 10),
        ("man-surfing", 72, 24),
        ("rabbit-watermelon", 186, 30),
    ],
)
def test_real_clips_are_read_to_their_last_frame(name, count, fps):
    path = SHARED / f"{name}.mp4"
    clip = read_frames(path, 3, size=64)
    assert clip.frames.shape == (3, 64, 64, 3)
    assert clip.fps == pytest.approx(fps * 2 / (count - 1))
    assert not torch.equal(clip.frames[0], clip.frames[2])
    refuses(lambda: read_frames(path, count + 1), f"only {count} of {count} frames")


# Shape and colour


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
        ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, 1), np.fliplr),
        ((0, 1, 1, 0), lambda picture: picture.transpose(1, 0, 2)),
    ],
    ids=["90", "180", "270", "mirrored", "transposed"],
)
def test_a_turned_camera_gives_upright_frames(tmp_path, matrix, turned):
    path = set_display_matrix(encode(tmp_path / "phone.mp4", [colours()] * 3, options={"crf": "5"}), *matrix)
    expected = tensor([turned(colours())])[0]
    height, width, _ = expected.shape
    clip = read_frames(path, 1, size=(width, height))
    assert (clip.frames[0] - expected).abs().median() < 0.01
    assert (clip.frames[0] - expected).abs().mean() < 0.02


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, -1), (8, 1)])
def test_a_turned_camera_gives_upright_images(tmp_path, orientation, turns):
    path = folder(tmp_path / "photos", {"0.jpg": colours()[..., ::-1]})
    set_exif_orientation(path / "0.jpg", orientation)
    expected = tensor([np.rot90(colours(), turns)])[0]
    height, width, _ = expected.shape
    assert (read_frames(path, 1, size=(width, height)).frames[0] - expected).abs().mean() < 0.02


def test_crop_keeps_the_centre_pad_the_whole_stretch_neither(tmp_path):
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:, :24, 0] = picture[:, 24:72, 1] = picture[:, 72:, 2] = 255  # red, green, blue
    path = tmp_path / "images"
    path.mkdir()
    cv2.imwrite(str(path / "0.png"), picture[..., ::-1])
    crop, pad, stretch = (read_frames(path, 1, size=48, fit=fit).frames[0] for fit in FITS)
    assert torch.equal(crop, torch.tensor([0.0, 1, 0]).expand(48, 48, 3))
    assert torch.equal(pad[:12], torch.zeros(12, 48, 3))
    assert torch.equal(pad[36:], torch.zeros(12, 48, 3))
    assert torch.equal(pad[24, [2, 24, 45]], torch.eye(3))
    assert torch.equal(stretch[[0, 24, 47]][:, [2, 24, 45]], torch.eye(3).expand(3, 3, 3))


def test_wide_pixels_are_made_square(tmp_path):
    path = encode(tmp_path / "anamorphic.mp4", [colours(64, 64)], pixel_aspect=2)
    padded = read_frames(path, 1, size=64, fit="pad").frames[0]
    assert padded[:15].max() == padded[49:].max() == 0
    assert padded[18:46].amax(dim=-1).min() > 0.2


def test_odd_sizes_are_read_and_any_size_is_reached(tmp_path):
    path = encode(tmp_path / "odd.mkv", numbered(3, 80, 80), codec="ffv1", pix_fmt="bgr0")
    odd = encode(tmp_path / "odd.avi", [p[:77, :51] for p in numbered(3, 80, 80)], codec="ffv1", pix_fmt="bgr0")
    assert read_frames(path, 3, size=(120, 200)).frames.shape == (3, 200, 120, 3)
    assert read_frames(odd, 3, size=(16, 24)).frames.shape == (3, 24, 16, 3)
    frames = read_frames(odd, 3, size=1024, fit="stretch").frames
    assert frames.min() >= 0
    assert frames.max() <= 1


@pytest.mark.parametrize(("height", "matrix"), [(48, "ITU601"), (720, "ITU709")])
def test_a_video_that_names_no_colours_is_read_as_browsers_do(tmp_path, height, matrix):
    path = encode(tmp_path / "clip.mp4", [colours(64, height)], options={"crf": "5"}, matrix=matrix)
    frame = read_frames(path, 1, size=(64, height)).frames[0]
    assert (frame - tensor([colours(64, height)])[0]).abs().median() < 0.01


@pytest.mark.parametrize("size", [510, (512, 100), 0, -8])
def test_a_size_off_the_grid_of_eight_is_refused_with_the_nearest(size):
    nearest = {510: "512x512", (512, 100): "512x96", 0: "8x8", -8: "8x8"}[size]
    refuses(lambda: read_frames("clip.mp4", size=size), "multiples of 8", nearest)


def test_wrong_options_are_refused_before_the_file_is_opened():
    refuses(lambda: read_frames("none.mp4", fit="squeeze"), "'squeeze'", "crop, pad, stretch")
    refuses(lambda: read_frames("none.mp4", 0), "0 frames are asked for")
    refuses(lambda: read_frames("none.mp4", start=-1), "start is -1")
    refuses(lambda: read_frames("none.mp4", stride=-1), "stride is -1")
    refuses(lambda: read_frames("none.mp4", 2.5), "frames is 2.5")
    refuses(lambda: read_frames("none.mp4", start="1"), "start is '1'")
    refuses(lambda: read_frames("none.mp4", stride=None), "stride is None")
    for size in ("512", 512.0, (512, 64.0), None):
        refuses(lambda size=size: read_frames("none.mp4", size=size), repr(size))
    refuses(lambda: read_frames("none.mp4", size=(1, 2, 3)), "(width, height)")
    refuses(lambda: read_frames("none.mp4"), "no file or folder none.mp4")


# Folders


def folder(path: Path, pictures: dict[str, np.ndarray]) -> Path:
    path.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        assert cv2.imwrite(str(path / name), picture)
    return path


def test_a_folder_is_read_in_natural_order_at_eight_frames_a_second(tmp_path):
    path = folder(tmp_path / "frames", {f"frame{i}.png": picture for i, picture in enumerate(numbered(12))})
    (path / "notes.txt").write_text("not an image")
    (path / ".hidden.png").write_bytes(b"not an image either")
    assert numbers(read_frames(path, 12, size=SIZE)) == list(range(12))
    clip = read_frames(path, 3, size=SIZE, start=2, stride=4)
    assert numbers(clip) == [2, 6, 10]
    assert clip.fps == 2
    refuses(lambda: read_frames(path, 13, size=SIZE), "only 12 of 12 frames", str(path))


def test_images_of_every_depth_come_out_in_their_colours(tmp_path):
    red, green, blue = 200, 100, 50
    alpha = np.full((16, 16, 4), (blue, green, red, 255), np.uint8)
    alpha[:, 8:, 3] = 0
    path = folder(
        tmp_path / "frames",
        {
            "0.png": np.full((16, 16, 3), (blue, green, red), np.uint8),
            "1-deep.png": np.full((16, 16, 3), (blue * 257, green * 257, red * 257), np.uint16),
            "2-alpha.png": alpha,
            "3-grey.png": np.full((16, 16), green, np.uint8),
            "4-deep-grey.png": np.full((16, 16), green * 257, np.uint16),
            "5.jpg": np.full((16, 16, 3), (blue, green, red), np.uint8),
            "6%d.bmp": np.full((16, 16, 3), (blue, green, red), np.uint8),
            "7.webp": np.full((16, 16, 3), (blue, green, red), np.uint8),
            "8.tiff": np.full((16, 16, 3), (blue, green, red), np.uint8),
        },
    )
    frames = (read_frames(path, 9, size=16).frames * 255).round()
    colour, grey = torch.tensor([red, green, blue]), torch.full((3,), green)
    for number, expected in enumerate([colour, colour, colour, grey, grey, colour, colour, colour, colour]):
        assert (frames[number, :, :8] - expected).abs().max() <= 3, number
    assert frames[2, :, 9:].max() == 0  # transparent: black


def test_a_transparent_gif_lies_on_black(tmp_path):
    palette = np.zeros((256, 4), np.uint8)
    palette[1] = 255, 200, 100, 50  # alpha first; colour 0 is clear
    indices = np.zeros((16, 16), np.uint8)
    indices[:, 8:] = 1
    with av.open(str(tmp_path / "clear.gif"), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "pal8"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray((indices, palette), format="pal8")))
        container.mux(stream.encode(None))
    frames = read_frames(tmp_path / "clear.gif", 2, size=16).frames * 255
    assert frames[:, :, :8].max() == 0
    assert (frames[:, :, 8:] - torch.tensor([200, 100, 50])).abs().max() < 1


def test_a_folder_that_is_no_clip_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    refuses(lambda: read_frames(tmp_path / "empty"), "has no images")
    sizes = {"0.png": numbered(1)[0], "1.png": colours(80, 80)}
    refuses(lambda: read_frames(folder(tmp_path / "sizes", sizes), 2, size=64), "1.png is 80x80", "64x48")
    broken = folder(tmp_path / "broken", {"0.png": numbered(1)[0]})
    for number, content in enumerate([b"", b"no image", (broken / "0.png").read_bytes()[:60]], start=1):
        (broken / "1.png").write_bytes(content)
        message = refuses(lambda: read_frames(broken, 2, size=64), "1.png cannot be read as an image")
        assert message, number


# Malformed files


def malformed(path: Path) -> dict[str, Path]:
    moving = encode(path / "moving.mp4", numbered(48), options=B_FRAMES)
    front = path / "front.mp4"
    write_video(front, tensor(numbered(48)), 24)
    webm = encode(path / "whole.mkv", numbered(48), options=B_FRAMES)
    gif = encode(path / "whole.gif", numbered(48), codec="gif", pix_fmt="rgb8", fps=10)
    avi = encode(path / "whole.avi", numbered(48), codec="mpeg4", options=MPEG)
    with av.open(str(path / "silence.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(None))
    with av.open(str(path / "sound.wav"), "w") as container:
        container.mux(container.add_stream("pcm_s16le", rate=8000).encode(None))
    contents = {
        "empty.mp4": b"",
        "random.mp4": np.random.default_rng(0).bytes(9000),
        "text.mp4": b"once upon a time\n" * 99,
        "text.txt": b"once upon a time\n" * 99,
        "no-moov.mp4": moving.read_bytes()[: moving.stat().st_size // 2],
        "cut.mp4": front.read_bytes()[: front.stat().st_size * 4 // 5],
        "cut.mkv": webm.read_bytes()[: webm.stat().st_size * 4 // 5],
        "cut.gif": gif.read_bytes()[: gif.stat().st_size // 2],
        "cut.avi": avi.read_bytes()[: avi.stat().st_size * 4 // 5],
        "holed.mp4": punched(front.read_bytes()),
    }
    for name, content in contents.items():
        (path / name).write_bytes(content)
    return {name: path / name for name in [*contents, "silence.mp4", "sound.wav"]}


def punched(data: bytes) -> bytes:
    middle = (data.index(b"mdat") + len(data)) // 2
    return data[:middle] + bytes(400) + data[middle + 400 :]


def test_a_malformed_file_gets_one_error_message_and_silence_on_the_terminal(tmp_path, capfd):
    files = malformed(tmp_path)
    capfd.readouterr()
    for name, path in files.items():
        refuses(lambda path=path: read_frames(path, 48, size=64), str(path))
        assert capfd.readouterr() == ("", ""), name


def test_a_cut_or_damaged_video_says_how_many_frames_could_be_read(tmp_path):
    files = malformed(tmp_path)
    for name in ("cut.mp4", "cut.avi", "holed.mp4"):
        message = refuses(lambda name=name: read_frames(files[name], 48, size=64), "of its 48 frames could be read")
        assert 0 < int(re.search(r"only (\d+)", message)[1]) < 48
    for name in ("cut.mkv", "cut.gif"):
        message = refuses(lambda name=name: read_frames(files[name], 2, size=64), "frames could be read")
        assert 0 < int(re.search(r"only (\d+)", message)[1]) < 48


def test_bytes_after_the_last_box_or_segment_are_no_damage(tmp_path):
    for name in ("clip.mp4", "clip.mkv"):
        path = encode(tmp_path / name, numbered(10), options=B_FRAMES)
        path.write_bytes(path.read_bytes() + b"left behind by another program")
        assert numbers(read_frames(path, 10, size=SIZE)) == list(range(10))


def test_a_name_with_a_percent_sign_is_no_pattern(tmp_path):
    path = encode(tmp_path / "clip.mp4", numbered(3)).rename(tmp_path / "50% %03d ü.mp4")
    assert numbers(read_frames(path, 3, size=SIZE)) == [0, 1, 2]


def test_a_title_in_another_alphabet_is_no_damage(tmp_path):
    path = encode(tmp_path / "clip.mp4", numbered(3), title="Mallorca")
    path.write_bytes(path.read_bytes().replace(b"Mallorca", b"Malag\xfcen"))  # Latin-1 where UTF-8 is due
    assert numbers(read_frames(path, 3, size=SIZE)) == [0, 1, 2]


# Writing


def gradients(count: int, height: int = 96, width: int = 128) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    shifts = torch.arange(count) / count
    return torch.stack([torch.stack([(x + s) / 2, (y + s) / 2, (1 - x * y) * (1 - s)], dim=-1) for s in shifts])


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * torch.log10((a - b).square().mean()).item()


def test_what_is_written_comes_back(tmp_path):
    frames = gradients(10)
    write_video(tmp_path / "out.mp4", frames, 12.5)
    clip = read_frames(tmp_path / "out.mp4", 10, size=(128, 96))
    assert clip.fps == pytest.approx(12.5)
    assert psnr(clip.frames, frames) > 40


def test_colours_come_back_right(tmp_path):
    frames = tensor([colours(128, 96)] * 3)
    write_video(tmp_path / "out.mp4", frames, 8)
    inside = read_frames(tmp_path / "out.mp4", 3, size=(128, 96)).frames - frames
    assert inside[:, 8:40, 8:56].abs().max() < 3 / 255
    assert inside[:, 56:88, 72:120].abs().max() < 3 / 255


def test_the_written_file_is_what_browsers_play(tmp_path):
    path = tmp_path / "new folder" / "out.mp4"
    write_video(path, gradients(5), 30000 / 1001)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert [f.name for f in path.parent.iterdir()] == ["out.mp4"]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt, stream.average_rate) == ("h264", "yuv420p", Fraction(30000, 1001))
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(95, 127), (1, 1), (96, 127)])
def test_odd_sides_repeat_their_last_row_and_column(tmp_path, height, width):
    frames = gradients(3)[:, :height, :width]
    write_video(tmp_path / "out.mp4", frames, 8)
    with av.open(str(tmp_path / "out.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.height, codec.width) == (height + height % 2, width + width % 2)
        back = rgb(next(container.decode(video=0)))
    assert psnr(tensor([back])[0, :height, :width], frames[0]) > 35


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_is_written_and_overshoot_is_clipped(tmp_path, dtype):
    frames = torch.zeros(2, 16, 16, 3, dtype=dtype, requires_grad=True) + torch.tensor([1.2, -0.2, 0.5], dtype=dtype)
    write_video(tmp_path / "out.mp4", frames, 8)
    back = read_frames(tmp_path / "out.mp4", 2, size=16).frames
    assert (back - torch.tensor([1, 0, 0.5])).abs().max() < 0.02


def test_what_is_no_clip_is_not_written(tmp_path):
    frames, path = gradients(2), tmp_path / "out.mp4"
    for wrong in (frames[0], frames.permute(0, 3, 1, 2), frames[:0], frames[..., :2], (frames * 255).to(torch.uint8)):
        refuses(lambda wrong=wrong: write_video(path, wrong, 8), "(f, h, w, 3)", str(tuple(wrong.shape)))
    for value in (float("nan"), float("inf")):
        spoiled = frames.clone()
        spoiled[1, 2, 3, 0] = value
        refuses(lambda spoiled=spoiled: write_video(path, spoiled, 8), "NaN or infinite")
    refuses(lambda: write_video(path, frames * 255, 8), "0..1")
    refuses(lambda: write_video(path, frames * 2 - 1.2, 8), "0..1")
    for fps in (0, -1, float("nan"), float("inf"), "8", None):
        refuses(lambda fps=fps: write_video(path, frames, fps), "fps is")
    refuses(lambda: write_video(tmp_path / "out.gif", frames, 8), "'out.gif'", ".mp4")
    (tmp_path / "file").touch()
    refuses(lambda: write_video(tmp_path / "file" / "out.mp4", frames, 8), "could not be written")
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_frames_are_written_one_by_one_as_they_are_together(tmp_path):
    frames = gradients(3)
    write_video(tmp_path / "together.mp4", frames, 8)
    write_video(tmp_path / "singly.mp4", iter(frames), 8)
    assert (tmp_path / "singly.mp4").read_bytes() == (tmp_path / "together.mp4").read_bytes()
    refuses(lambda: write_video(tmp_path / "out.mp4", iter([]), 8), "no frames")
    refuses(lambda: write_video(tmp_path / "out.mp4", iter([frames[0], frames[1] * float("nan")]), 8), "NaN")
    refuses(
        lambda: write_video(tmp_path / "out.mp4", iter([frames[0], frames[1, :48]]), 8), "(96, 128, 3)", "(48, 128, 3)"
    )
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("as_bytes", [False, True])
def test_frames_are_read_as_floats_or_as_bytes(tmp_path, as_bytes):
    write_video(tmp_path / "clip.mp4", gradients(3), 8)
    frames = read_frames(tmp_path / "clip.mp4", 3, size=16, as_bytes=as_bytes).frames
    assert frames.dtype == (torch.uint8 if as_bytes else torch.float32)
    assert np.array_equal(to_uint8(frames), to_uint8(read_frames(tmp_path / "clip.mp4", 3, size=16).frames))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError(28, "No space left on device")])
def test_a_write_that_fails_midway_leaves_what_was_there(tmp_path, monkeypatch, error):
    path, yuv, calls = tmp_path / "out.mp4", write.yuv, []

    def fails_at_the_third(picture):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return yuv(picture)

    path.write_bytes(b"the last result")
    monkeypatch.setattr(write, "yuv", fails_at_the_third)
    with pytest.raises(TavError if isinstance(error, OSError) else error):
        write_video(path, gradients(5), 8)
    assert path.read_bytes() == b"the last result"
    assert [f.name for f in tmp_path.iterdir()] == ["out.mp4"]
