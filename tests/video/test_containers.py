"""What may be opened as a clip, and what never is."""

import contextlib
import os
import re
import shutil
import threading
from pathlib import Path

import av
import numpy as np
import PIL.features
import pytest
from PIL import Image, ImageOps

from tav_core import TavError, read_frames, write_video
from tav_core.jobs.control_choice import control_images
from tav_core.jobs.selection import Selection
from tav_core.video.decode import VideoFile
from tav_core.video.sound import read_sound
from tests.clips import encode, number_in, numbered

CASES = Path(os.environ.get("TAV_SHARED", Path(__file__).parents[3] / "shared")) / "cases"
SIZE = 64


@pytest.fixture
def secret(tmp_path):
    """A video elsewhere on the disk."""
    (tmp_path / "elsewhere").mkdir()
    return encode(tmp_path / "elsewhere" / "secret.ts", numbered(4), fps=8)


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "list.ts", "list.txt", "list.gif"])
@pytest.mark.parametrize("by", ["absolute path", "path above", "address"])
def test_a_playlist_never_leads_to_another_file(tmp_path, secret, name, by):
    named = {"absolute path": str(secret), "path above": "../elsewhere/secret.ts", "address": f"file://{secret}"}[by]
    path = tmp_path / "input" / name
    path.parent.mkdir()
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\n{named}\n#EXT-X-ENDLIST\n")
    with pytest.raises(TavError, match="is not a video"):
        read_frames(path, 1, size=SIZE)


@pytest.mark.parametrize("kind", ["ffconcat version 1.0\nfile '{}'\n", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\n"])
def test_no_other_list_does_either(tmp_path, secret, kind):
    path = tmp_path / "list.mp4"
    path.write_text(kind.format(secret))
    with pytest.raises(TavError, match="is not a video"):
        read_frames(path, 1, size=SIZE)


def test_a_playlist_among_images_is_no_image(tmp_path, secret):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "1.png").write_text(f"#EXTM3U\n#EXTINF:0.5,\n{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(TavError, match="cannot be read as an image"):
        read_frames(folder, 1, size=SIZE)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such names")
@pytest.mark.parametrize("name", ["12:30 skiing.mp4", "concat:clip.mp4", "http:clip.mp4", "frame%03d.mp4"])
def test_a_name_is_never_an_address(tmp_path, monkeypatch, name):
    encode(tmp_path / "plain.mp4", numbered(4), fps=8)
    shutil.move(tmp_path / "plain.mp4", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    frames = read_frames(Path(name), 4, size=SIZE).frames
    assert len(frames) == 4
    write_video(Path("edits:v2", name), frames, 8)
    assert len(read_frames(Path("edits:v2", name), 4, size=SIZE).frames) == 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in the file system are of POSIX systems")
def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "clip.mp4")
    images = tmp_path / "images"
    images.mkdir()
    os.mkfifo(images / "1.png")
    selection = Selection(encode(tmp_path / "plain.mp4", numbered(2)), frames=2, size=SIZE)
    for path in (tmp_path / "clip.mp4", images, Path("/dev/zero")):
        for read in (lambda path: read_frames(path, 1, size=SIZE), lambda path: control_images(path, selection, [])):
            failed = []

            def reading(read=read, path=path, failed=failed):
                try:
                    read(path)
                except TavError as error:
                    failed.append(str(error))

            reader = threading.Thread(target=reading, daemon=True)
            reader.start()
            reader.join(10)
            assert failed, f"{path} is still being read"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_and_mirrored_as_their_exif_data_say(tmp_path, suffix):
    picture = Image.fromarray(np.kron(np.arange(1, 7).reshape(2, 3), np.ones((32, 32))).astype(np.uint8) * 40)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        folder = tmp_path / str(orientation)
        folder.mkdir()
        picture.convert("RGB").save(folder / f"1.{suffix}", exif=exif, **{"quality": 100} if suffix != "png" else {})
        expected = np.asarray(ImageOps.exif_transpose(Image.open(folder / f"1.{suffix}")))
        height, width = expected.shape[:2]
        frame = read_frames(folder, 1, size=(width, height)).frames[0].numpy() * 255
        assert np.abs(frame - expected).max() <= 6, orientation


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "libvpx-vp9"), ("b.webm", "libvpx")])
def test_what_is_transparent_is_black(tmp_path, name, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    green = np.zeros((SIZE, SIZE, 4), np.uint8)
    green[..., 1], green[:, SIZE // 2 :, 3] = 200, 255
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=8, options={"auto-alt-ref": "0"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuva420p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(green, format="rgba").reformat(format="yuva420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = read_frames(tmp_path / name, 3, size=SIZE).frames
    assert frames[:, :, : SIZE // 2 - 4].max() < 0.05
    assert frames[:, :, SIZE // 2 + 4 :, 1].min() > 0.6


def test_pixels_are_as_wide_as_the_container_alone_says(tmp_path):
    """`pasp` of an mp4 whose stream says nothing."""
    path = encode(tmp_path / "wide.mp4", numbered(2, SIZE), fps=8)
    data = bytearray(path.read_bytes())
    box = data.find(b"pasp")
    if box < 0:
        pytest.skip("this FFmpeg writes no pasp")
    data[box + 4 : box + 12] = (2).to_bytes(4, "big") + (1).to_bytes(4, "big")
    path.write_bytes(data)
    (width,) = {image.shape[1] for image in VideoFile(path).frames([0, 1])}
    assert width == 2 * SIZE


def test_numbers_are_only_those_of_ascii(tmp_path):
    from tav_core.video.image_folder import natural_order

    names = ["²1.png", "frame10.png", "frame2.png", "٣.png"]
    assert sorted(map(Path, names), key=natural_order)[:2] == [Path("frame2.png"), Path("frame10.png")]


@pytest.mark.skipif(not CASES.exists(), reason=f"{CASES} is not here")
def test_a_damaged_file_that_pyav_trips_over_is_told(tmp_path):
    with pytest.raises(TavError, match=r"is not a video|damaged|no video stream"):
        read_frames(CASES / "h264.flv", 1, size=SIZE)
    assert read_sound(CASES / "h264.flv", 0, 1) is None  # PyAV 14 crashed, with the allowed formats as `options`


def test_damage_by_chance_is_told_in_a_sentence(tmp_path):
    """Bytes flipped all over a small file, in each container."""
    rng = np.random.default_rng(0)
    for name in ("a.mp4", "a.mkv", "a.avi", "a.flv", "a.mov", "a.ts"):
        whole = np.frombuffer(encode(tmp_path / name, numbered(4), fps=8).read_bytes(), np.uint8)
        for _ in range(12):
            damaged = whole.copy()
            damaged[rng.integers(len(whole), size=8)] = rng.integers(256, size=8)
            (tmp_path / name).write_bytes(damaged.tobytes())
            with contextlib.suppress(TavError):  # nothing else
                read_frames(tmp_path / name, 2, size=SIZE)


# Which stream


def with_still(path, *, codec: str = "mjpeg", audio: bool = False, video: bool = True) -> Path:
    """A white image in a stream of its own, before a video whose frames show their numbers."""
    with av.open(str(path), "w") as container:
        still = container.add_stream(codec, rate=1)
        still.width, still.height, still.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "rgb24"
        if audio:
            still.disposition = av.stream.Disposition.attached_pic.value  # PyAV 14 takes numbers alone
        streams = [(still, [np.full((48, 64, 3), 255, np.uint8)])]
        if video:
            moving = container.add_stream("libx264", rate=8)
            moving.width, moving.height, moving.pix_fmt = 64, 48, "yuv420p"
            streams.append((moving, numbered(9)))
        if audio:
            sound = container.add_stream("aac", rate=44100)
            silence = av.AudioFrame.from_ndarray(np.zeros((2, 44100), np.float32), format="fltp", layout="stereo")
            silence.rate = 44100
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
        for stream, images in streams:
            put(container, stream, images)
    return path


def put(container, stream, images: list[np.ndarray]) -> None:
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = number, 1 / stream.codec_context.rate
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def numbers_in(path: Path, count: int) -> list[int]:
    return [number_in(frame) for frame in read_frames(path, count, size=(64, 48)).frames]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_a_cover_before_the_video_is_not_the_video(tmp_path, name):
    assert numbers_in(with_still(tmp_path / name), 9) == list(range(9))


def test_a_track_that_is_switched_off_is_not_read(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=8) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for stream, images in zip(streams, (numbered(18)[9:], numbered(9)), strict=True):
            put(container, stream, images)
    data = bytearray(path.read_bytes())
    first, second = (match.end() for match in re.finditer(b"tkhd", data))
    data[first + 3] &= ~1  # the flag of a track that is on
    data[second + 3] |= 1
    path.write_bytes(data)
    assert numbers_in(path, 9) == list(range(9))


def test_audio_with_a_cover_is_no_video(tmp_path):
    path = with_still(tmp_path / "song.mp4", codec="png", audio=True, video=False)
    with av.open(str(path)) as container:
        (cover,) = container.streams.video
        assert cover.disposition & av.stream.Disposition.attached_pic
    with pytest.raises(TavError, match="no video stream"):
        read_frames(path, 1, size=SIZE)


def test_an_avif_animation_is_read_to_its_end(tmp_path):
    """Its first stream is the still image by which it is shown where animations are not."""
    if not PIL.features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    first, *others = map(Image.fromarray, numbered(9))
    first.save(tmp_path / "a.avif", save_all=True, append_images=others, duration=125, quality=90)
    assert numbers_in(tmp_path / "a.avif", 9) == list(range(9))
