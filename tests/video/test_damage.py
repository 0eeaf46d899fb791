"""What FFmpeg reads all the same, and shows wrong: an image is refused, a broken frame of a video is named."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from tav_core.errors import TavError
from tav_core.video.read import read_frames
from tests.clips import broken, encode, moving, numbered

SIZE = (128, 96)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.mp4", "libx264", {"g": "12", "bf": "0", "threads": "1"}),
        ("clip.avi", "mpeg4", {"g": "12", "q": "3"}),
    ],
)
def test_a_broken_frame_is_named_where_it_matters(tmp_path, name, codec, options):
    path = encode(tmp_path / name, moving(48), codec=codec, options=options)
    assert read_frames(path, 48, size=SIZE).notes == ()
    path.write_bytes(broken(path, 20))
    clip = read_frames(path, 48, size=SIZE)
    assert len(clip.frames) == 48
    (note,) = clip.notes
    assert f"{name} is damaged at frame 20, counted from 0" in note
    (note,) = read_frames(path, 1, size=SIZE, start=22).notes  # which is made from frame 20
    assert "frame 20," in note


def test_a_broken_frame_that_is_sought_over_does_no_harm(tmp_path):
    path = encode(tmp_path / "clip.mp4", moving(48), options={"g": "12", "bf": "0", "threads": "1"})
    path.write_bytes(broken(path, 20))
    assert read_frames(path, 2, size=SIZE, start=36).notes == ()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("open-gop.mp4", {"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0:scenecut=0"}),
        ("refresh.mkv", {"x264-params": "intra-refresh=1:keyint=12:bframes=0:ref=1"}),
        ("late.ts", {"g": "12", "bf": "3"}),
    ],
)
def test_frames_that_lack_their_references_after_a_seek_are_no_damage(tmp_path, name, options):
    path = encode(tmp_path / name, moving(48), options=options, first=100)
    assert read_frames(path, 7, size=SIZE).notes == ()
    assert read_frames(path, 2, size=SIZE, start=30).notes == ()


def image(kind: str, **settings) -> bytes:
    file = io.BytesIO()
    Image.fromarray(moving(1)[0]).save(file, kind, **settings)
    return file.getvalue()


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def zeroed(data: bytes) -> bytes:
    return cut(data) + bytes(len(data) - len(data) // 2)


def flipped(data: bytes) -> bytes:
    half = len(data) // 2
    return data[:half] + bytes(byte ^ 0x5A for byte in data[half : half + 512]) + data[half + 512 :]


EXIF = Image.Exif()
EXIF[0x0112] = 1
KINDS = {
    "jpg": {"kind": "JPEG", "quality": 90},
    "progressive.jpg": {"kind": "JPEG", "quality": 90, "progressive": True, "exif": EXIF},
    "png": {"kind": "PNG"},
    "webp": {"kind": "WEBP"},
    "bmp": {"kind": "BMP"},
    "tif": {"kind": "TIFF", "exif": EXIF},
    "lzw.tif": {"kind": "TIFF", "compression": "tiff_lzw"},
    "jpeg.tif": {"kind": "TIFF", "compression": "jpeg"},
}


UNCHECKED = ("bmp", "tif", "webp")  # hold nothing by which wrong values would show


def read(path, data: bytes):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return read_frames(path.parent, 1, size=SIZE).frames[0].numpy() * 255


HARMED = [(name, harm) for name in KINDS for harm in (cut, zeroed, flipped) if harm is cut or name not in UNCHECKED]


@pytest.mark.parametrize(("name", "harm"), [harmed for harmed in HARMED if harmed != ("jpeg.tif", flipped)])
def test_an_image_is_read_whole_or_not_at_all(tmp_path, name, harm):
    path, data = tmp_path / "images" / f"0.{name}", image(**KINDS[name])
    assert np.abs(read(path, data) - moving(1)[0]).mean() < 4
    with pytest.raises(TavError, match="damaged"):
        read(path, harm(data))


def test_a_jpeg_with_a_motion_photo_behind_it_is_whole(tmp_path):
    data = image("JPEG", quality=90) + encode(tmp_path / "a.mp4", numbered(3)).read_bytes()
    assert np.abs(read(tmp_path / "images" / "0.jpg", data) - moving(1)[0]).mean() < 4


def test_a_deep_tiff_keeps_its_depth_and_a_tag_that_ffmpeg_does_not_know(tmp_path):
    deep = (moving(1)[0].astype(np.uint16) * 257)[..., ::-1]
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.tif"), deep)
    assert np.abs(read_frames(tmp_path / "images", 1, size=SIZE).frames[0].numpy() * 255 - moving(1)[0]).mean() < 1
