"""Test clips, drawn and encoded when a test runs. Images are uint8 (h, w, 3)."""

import itertools
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

CELL = 16


def numbered(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Images that carry their number, one bit a cell of 16 pixels, black or white; `number_in` reads it back."""
    cells = np.arange((height // CELL) * (width // CELL)).reshape(height // CELL, width // CELL)
    return [
        np.kron((number >> cells & 1)[..., None].astype(np.uint8) * 255, np.ones((CELL, CELL, 3), np.uint8))
        for number in range(count)
    ]


def number_in(frame) -> int:
    """The number that `numbered` drew into a frame (h, w, 3) in 0..1 of the same size."""
    height, width, _ = frame.shape
    cells = frame.reshape(height // CELL, CELL, width // CELL, CELL, 3).mean((1, 3, 4)).flatten()
    return sum(1 << bit for bit, value in enumerate(cells.tolist()) if value > 0.5)


def colours(width: int = 64, height: int = 48) -> np.ndarray:
    """Four flat quarters: red, green / blue, grey-brown."""
    quarters = np.array([[[200, 30, 40], [30, 180, 60]], [[20, 60, 210], [140, 120, 90]]], np.uint8)
    return np.kron(quarters, np.ones((height // 2, width // 2, 1), np.uint8))


def moving(count: int) -> list[np.ndarray]:
    """A texture that passes by, so that every frame has something to code."""
    texture = np.random.default_rng(0).integers(0, 255, (200, 300, 3)).astype(np.uint8)
    texture = cv2.GaussianBlur(texture, (0, 0), 2)
    return [np.ascontiguousarray(texture[i : i + 96, 2 * i : 2 * i + 128]) for i in range(count)]


def encode(
    path: Path,
    pictures: list[np.ndarray],
    *,
    fps: Fraction | int = 24,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    times: list[int] | None = None,
    first: int = 0,
    pixel_aspect: int = 1,
    matrix: str = "ITU601",
    container_format: str | None = None,
    title: str | None = None,
) -> Path:
    """Writes the images; `times` in milliseconds make a variable rate, `first` delays a constant one by frames."""
    time_base = Fraction(1, 1000) if times else 1 / Fraction(fps)
    with av.open(str(path), "w", format=container_format) as container:
        container.metadata.update({"title": title} if title else {})
        stream = container.add_stream(codec, rate=Fraction(fps), options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = time_base
        stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect)
        for picture, time in zip(pictures, times or itertools.count(first), strict=bool(times)):
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = rgb.reformat(format=pix_fmt, dst_colorspace=matrix)
            frame.pts, frame.time_base = time, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def with_sound(path: Path, count: int = 40, *, fps: int = 20, rate: int = 8000) -> Path:
    """A numbered clip that gets louder, up to 4 s of it: at t seconds, its samples are t / 4."""
    samples = (np.arange(count * rate // fps) / rate / 4).astype(np.float32)
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=fps), container.add_stream("flac", rate=rate)
        video.height, video.width, video.pix_fmt, audio.layout = 48, 64, "yuv420p", "mono"
        for number, picture in enumerate(numbered(count)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
        sound = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = rate, 0, Fraction(1, rate)
        for stream, last in ((video, None), (audio, sound), (audio, None)):
            container.mux(stream.encode(last))
    return path


def broken(path, packet: int) -> bytes:
    """The file with a few bytes of one packet changed."""
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    start = places[packet][0] + places[packet][1] // 3
    data[start : start + 6] = bytes(byte ^ 0x5A for byte in data[start : start + 6])
    return bytes(data)


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Gives an mp4's track the display matrix x' = ax + cy, y' = bx + dy, as a phone does for a turned camera."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", *(v << 16 for v in (a, b)), 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def set_edit_list(path: Path, *, first: int, count: int, fps: int) -> Path:
    """Makes an mp4's edit list show only `count` frames from frame `first` on."""
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12
    (movie_scale,) = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)
    (track_scale,) = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)
    _, media_time = struct.unpack_from(">Ii", data, place)
    struct.pack_into(">Ii", data, place, count * movie_scale // fps, media_time + first * track_scale // fps)
    path.write_bytes(data)
    return path


def set_exif_orientation(path: Path, orientation: int) -> Path:
    """Gives a JPEG an EXIF orientation, as a phone does for a turned camera."""
    tag = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + tag + bytes(4)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    return path
