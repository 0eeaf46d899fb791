"""Frames in, frames out: videos, GIFs and folders of images become tensors, tensors become mp4 files.

A video is read twice, one picture at a time: once for its timeline, from its packets where they tell it and else by
decoding, and once for the chosen frames. Only those are converted, resized and held.
"""

import itertools
import logging
import math
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import torch
from av.error import FFmpegError
from av.sidedata.sidedata import Type as SideDataType
from torch import Tensor

from .errors import TavError
from .files import atomic_path

FITS = ("crop", "pad", "stretch")
FOLDER_FPS = 8.0  # at which the original implementation shows its results
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}

# Codecs that put exactly one shown picture into each packet. Others hide some (VP8's alt-ref frames, MPEG-4's
# skipped ones) or are too rare to trust, and are counted by decoding.
PICTURE_PER_PACKET = {"h264", "hevc", "vp9", "av1", "mjpeg", "prores", "ffv1"}

EXACT = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"  # swscale's default is up to 3 levels off
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}  # ITU-T H.273
UNSPECIFIED = 2
RANGES = {1: "tv", 2: "pc"}
MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"styp", b"sidx", b"free", b"skip", b"wide", b"uuid"}

# PyAV 12 passes FFmpeg's chatter to this logger, and Python prints what no handler takes. Errors are ours to tell.
logging.getLogger("libav").addHandler(logging.NullHandler())


class Clip(NamedTuple):
    """Frames (f, h, w, 3), float32 in 0..1, and the rate (1/s) that shows the source's motion at its own speed."""

    frames: Tensor
    fps: float


def read_frames(
    path: str | os.PathLike,
    num_frames: int = 24,
    *,
    size: int | tuple[int, int] = 512,
    start: int = 0,
    stride: int = 0,
    fit: str = "crop",
) -> Clip:
    """Reads `num_frames` frames of a video, a GIF or a folder of images.

    Stride 0 spreads the frames uniformly from frame `start` to the last; otherwise every `stride`-th is taken, as in
    the original. Frames are counted as displayed: upright, in time order, edit lists obeyed, at whatever rate.
    A folder is read in natural order (frame2 before frame10) as if at 8 frames a second; its images share one size.

    `size` is a side or (width, height), in multiples of 8. "crop" keeps the aspect and the centre, "pad" keeps the
    aspect and the whole picture, on black, "stretch" keeps neither. Shrinking averages areas (INTER_AREA), enlarging
    is bicubic. Transparency lies on black. A YUV video that does not name its colours is read as browsers do: BT.709
    from 720 lines on, BT.601 below. Raises TavError for every wrong option and every missing or damaged file.
    """
    path = Path(path)
    width, height = _width_and_height(size)
    if fit not in FITS:
        raise TavError(f"The fit is {fit!r}, which is unknown; choose one of {', '.join(FITS)}.")
    _check_selection(num_frames, start, stride)
    if not path.exists():
        raise TavError(f"There is no file or folder {path}; check the path of the video.")
    source = _Folder(path) if path.is_dir() else _Video(path)
    try:
        chosen = select_frames(source.num_frames, num_frames, start, stride)
    except TavError as error:
        raise TavError(f"{path}: {error}") from None
    frames = torch.empty(num_frames, height, width, 3)
    for kept, picture in zip(frames, source.pictures(chosen), strict=True):
        kept.copy_(torch.from_numpy(_fitted(picture, width, height, fit))).div_(255)
    frames_per_step = (chosen[-1] - chosen[0]) / (num_frames - 1) if num_frames > 1 else 1
    return Clip(frames, source.fps / frames_per_step)


def write_video(path: str | os.PathLike, frames: Tensor, fps: float) -> None:
    """Writes frames (f, h, w, 3), float in 0..1, as an H.264 mp4 that browsers play, whole or not at all.

    yuv420p needs even sides: an odd one repeats its last row or column. Colours are BT.709, limited range, and tagged
    so. Values up to 0.5 outside 0..1 are a decoder's overshoot and are clipped. Raises TavError for anything else
    that is not such frames, an fps outside 0.001..1000, a suffix other than .mp4, and a file that cannot be written.
    """
    path = Path(path)
    _check_writable(path, frames, fps)
    rate = Fraction(float(fps)).limit_denominator(1001)  # finds 30000/1001 in 29.97003
    odd_height, odd_width = frames.shape[1] % 2, frames.shape[2] % 2
    convert = _Converter()
    colours = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
    muxing = {"format": "mp4", "options": {"movflags": "+faststart"}}
    try:
        with atomic_path(path) as temporary, av.open(str(temporary), "w", **muxing) as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": "17", **colours})
            stream.width, stream.height = frames.shape[2] + odd_width, frames.shape[1] + odd_height
            stream.pix_fmt = "yuv420p"
            for number, frame in enumerate(frames):
                picture = (frame.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()
                picture = np.pad(picture, ((0, odd_height), (0, odd_width), (0, 0)), mode="edge")
                rgb = av.VideoFrame.from_ndarray(picture, format="rgb24")
                yuv = convert(rgb, f"out_color_matrix=bt709:out_range=tv:{EXACT}", "yuv420p")
                yuv.pts, yuv.time_base = number, 1 / rate
                container.mux(stream.encode(yuv))
            container.mux(stream.encode(None))
    except (OSError, FFmpegError) as error:
        raise TavError(
            f"{path} could not be written ({error.strerror}); choose another place or free space."
        ) from error


def select_frames(total: int, num_frames: int, start: int = 0, stride: int = 0) -> list[int]:
    """The strictly increasing numbers of the chosen frames among 0..total-1; the first is `start`.

    Stride 0: round(linspace(start, total - 1, num_frames)). Otherwise the original's range(start, total, stride), its
    first `num_frames`. Raises TavError where there are fewer frames than asked for.
    """
    _check_selection(num_frames, start, stride)
    if start >= total:
        raise TavError(f"start is {start}, but there are only {total} frames, counted from 0; start earlier.")
    available = range(start, total, stride or 1)
    if num_frames > len(available):
        where = f"from frame {start} on" + (f" with stride {stride}" if stride > 1 else "")
        ways = [f"ask for {len(available)}"] + ["start earlier"] * (start > 0) + ["lower the stride"] * (stride > 1)
        raise TavError(
            f"num_frames is {num_frames}, but {where} only {len(available)} of {total} frames can be taken; "
            f"{' or '.join(ways)}."
        )
    if stride:
        return list(available[:num_frames])
    return np.linspace(start, total - 1, num_frames).round().astype(int).tolist()


class _Folder:
    """A folder of images as a source of pictures."""

    fps = FOLDER_FPS

    def __init__(self, path: Path):
        images = (f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith("."))
        self.files = sorted(images, key=_natural)
        self.num_frames = len(self.files)
        if not self.files:
            raise TavError(f"The folder {path} holds no images; give a folder of png, jpg, webp, bmp or tiff files.")

    def pictures(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """The chosen images, uint8 (h, w, 3)."""
        shape, convert = None, _Converter()
        for file in (self.files[index] for index in chosen):
            picture = _read_image(file, convert)
            shape = shape or picture.shape
            if picture.shape != shape:
                raise TavError(
                    f"{file} is {picture.shape[1]}x{picture.shape[0]}, but the images before it are "
                    f"{shape[1]}x{shape[0]}; give a folder of images of one size."
                )
            yield picture


class _Lost(Exception):
    """The packets or a seek do not lead to every picture; only decoding from the start does."""


class _Video:
    """A video file as a source of pictures: its timeline, and any of its pictures in the order they are shown.

    `times` holds a number for each picture: its pts where packets tell the timeline, its place where decoding did.
    `keyframes` holds the pts at which decoding may begin; it is empty where only decoding from the start is safe.
    """

    def __init__(self, path: Path):
        self.path = path
        with self._opened() as (container, stream):
            self.format = container.format.name
            self.rate = stream.average_rate
            self.pixel_aspect = stream.codec_context.sample_aspect_ratio or 1
            self.stated = stream.frames  # 0 where the header does not say
        try:
            self._read_packets()
        except (_Lost, FFmpegError):
            self._read_pictures()
        if not self.times:
            raise TavError(f"{path} has a video stream without a single frame; give another file.")
        self.num_frames = len(self.times)

    @property
    def fps(self) -> float:
        """The stated rate where it explains the timeline to half a frame (mkv rounds times), else the mean rate."""
        steps = self.num_frames - 1
        if self.rate and abs(float(self.rate) * self.seconds - steps) < 0.5:
            return float(self.rate)
        if steps and self.seconds > 0:
            return steps / self.seconds
        return float(self.rate or FOLDER_FPS)

    def pictures(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """The chosen pictures, uint8 (h, w, 3): by their pts where that finds them all, else by counting."""
        found, convert = 0, _Converter()
        try:
            for frame in self._frames_at([self.times[index] for index in chosen]):
                yield _rgb(frame, convert, self.pixel_aspect)
                found += 1
            return
        except (_Lost, FFmpegError):
            self._read_pictures()
        if len(self.times) != self.num_frames:
            raise self._damaged()
        for frame in self._frames_at(chosen[found:]):
            yield _rgb(frame, convert, self.pixel_aspect)

    def _read_packets(self) -> None:
        """The timeline without decoding; _Lost where packets are no pictures, lack true times, or end too early."""
        packets = []
        with self._opened() as (container, stream):
            if stream.codec_context.name not in PICTURE_PER_PACKET or self.format == "avi":  # avi stores no pts
                raise _Lost
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise _Lost
                if packet.size and not packet.is_discard:  # an edit list discards what it cuts away
                    packets.append((packet.pts, packet.is_keyframe))
            time_base = stream.time_base
        self.times = sorted({pts for pts, _ in packets if pts is not None})
        self.keyframes = sorted(pts for pts, is_keyframe in packets if is_keyframe and pts is not None)
        starts_with_keyframe = self.keyframes[:1] == self.times[:1]  # pictures before it may never be shown
        if _is_cut_short(self.path) or len(self.times) < len(packets) or not starts_with_keyframe:
            raise _Lost
        self.seconds = float((self.times[-1] - self.times[0]) * time_base) if packets else 0.0

    def _read_pictures(self) -> None:
        """The timeline by decoding it all; TavError where the file breaks off."""
        packets, whole, moments = 0, not _is_cut_short(self.path), []
        with self._opened() as (container, stream):
            try:
                for packet in container.demux(stream):
                    moments += [frame.time for frame in packet.decode()]
                    packets += packet.size > 0
                    whole = whole and not packet.is_corrupt
            except FFmpegError:
                whole = False
        self.times, self.keyframes = range(len(moments)), []
        # What mov and mp4 state includes what an edit list cuts away; there, an early end shows in other ways.
        if not whole or (packets < self.stated and "mov" not in self.format):
            raise self._damaged()
        known = [moment for moment in moments if moment is not None]
        self.seconds = max(known) - min(known) if known else 0.0

    def _frames_at(self, times: Sequence[int]) -> Iterator[av.VideoFrame]:
        with self._opened() as (container, stream):
            now, frames = self.times[0], self._timed(container.demux(stream))
            for time in times:
                keyframe = self.keyframes[bisect_right(self.keyframes, time) - 1] if self.keyframes else now
                if keyframe > now:
                    frames = self._timed(_packets_from(container, stream, keyframe))
                now, frame = next(((now, frame) for now, frame in frames if now >= time), (None, None))
                if now != time:
                    raise _Lost
                yield frame

    def _timed(self, packets: Iterator[av.Packet]) -> Iterator[tuple[int, av.VideoFrame]]:
        place = itertools.count()
        for packet in packets:
            for frame in packet.decode():
                if self.keyframes and frame.pts is None:
                    raise _Lost
                yield frame.pts if self.keyframes else next(place), frame

    @contextmanager
    def _opened(self) -> Iterator[tuple[av.container.InputContainer, av.video.stream.VideoStream]]:
        try:
            container = av.open(str(self.path), metadata_errors="replace")
        except (OSError, FFmpegError) as error:
            raise TavError(
                f"{self.path} is not a video, or not a whole one ({error.strerror}); "
                "give an mp4, mov, mkv, webm or gif file, or a folder of images."
            ) from error
        with container:
            if not container.streams.video or container.format.name == "tty":  # FFmpeg plays text files, too
                raise TavError(f"{self.path} has no video stream; give a video file or a folder of images.")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise TavError(f"{self.path} uses a codec that this PyAV cannot decode; convert it to H.264.")
            stream.thread_type = "AUTO"
            yield container, stream

    def _damaged(self) -> TavError:
        stated = f" of its {self.stated}" if self.stated > len(self.times) else ""
        return TavError(
            f"{self.path} is damaged or cut short: only {len(self.times)}{stated} frames could be read; "
            "download or export it again."
        )


def _packets_from(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, keyframe: int
) -> Iterator[av.Packet]:
    """Packets from a keyframe (its pts) on, or from an earlier one; _Lost where the seek leads elsewhere."""
    container.seek(keyframe, stream=stream)
    packets = container.demux(stream)
    first = next(packets)
    if not first.is_keyframe or first.pts is None or first.pts > keyframe:
        raise _Lost
    yield from itertools.chain([first], packets)


def _is_cut_short(path: Path) -> bool:
    """Whether the file ends before its outermost element does, which FFmpeg often takes for the end of the video."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
        if head.startswith(b"GIF8"):
            file.seek(max(size - 64, 0))
            return not file.read().rstrip(b"\0\r\n").endswith(b";")
        if head.startswith(b"\x1a\x45\xdf\xa3"):  # Matroska: one segment; leading zeros of its length count its bytes
            place = head.find(b"\x18\x53\x80\x67") + 4
            width = 9 - head[place].bit_length()
            length = int.from_bytes(head[place : place + width], "big") - (1 << 7 * width)
            unknown = (1 << 7 * width) - 1  # a live recording
            return length != unknown and place + width + length > size
        place, box = 0, head
        while box[4:8] in MP4_BOXES:
            length = int.from_bytes(box[:4], "big")
            length = int.from_bytes(box[8:16], "big") if length == 1 else length or size - place  # 0: to the end
            place += max(length, 8)
            file.seek(place)
            box = file.read(16)
        return place > size


class _Converter:
    """Changes the pixel format of frames through FFmpeg's scale filter: `VideoFrame.reformat` mixes up colour matrices
    and ranges in PyAV 12. Keeps its graph while frames stay alike: in PyAV 12 a graph and its frames wait for gc.
    """

    kind = None

    def __call__(self, frame: av.VideoFrame, scale: str, pixel_format: str) -> av.VideoFrame:
        kind = frame.width, frame.height, frame.format.name, scale, pixel_format
        if kind != self.kind:
            graph = av.filter.Graph()
            shape = {"width": frame.width, "height": frame.height, "format": frame.format}
            nodes = [
                graph.add_buffer(**shape, time_base=frame.time_base or Fraction(1)),
                graph.add("scale", scale),
                graph.add("format", pixel_format),
                graph.add("buffersink"),
            ]
            for node, following in itertools.pairwise(nodes):
                node.link_to(following)
            graph.configure()
            self.kind, self.graph, self.entry, self.exit = kind, graph, nodes[0], nodes[-1]
        self.entry.push(frame)
        return self.exit.pull()


def _read_image(path: Path, convert: _Converter) -> np.ndarray:
    try:
        with path.open("rb") as file, av.open(file) as container:  # not by name, where %d would be a pattern
            return _rgb(next(container.decode(video=0)), convert)
    except (OSError, FFmpegError, StopIteration, IndexError) as error:
        raise TavError(f"{path} cannot be read as an image; replace it or take it out of the folder.") from error


def _rgb(frame: av.VideoFrame, convert: _Converter, pixel_aspect: Fraction | int = 1) -> np.ndarray:
    """The frame as shown: uint8 (h, w, 3), upright, with square pixels, on black where transparent."""
    colorspace, color_range = int(frame.colorspace), int(frame.color_range)
    matrix = MATRICES.get(colorspace, "auto")
    if colorspace == UNSPECIFIED and frame.height >= 720:
        matrix = "bt709"
    scale = f"w=iw*{pixel_aspect}:h=ih:in_color_matrix={matrix}:in_range={RANGES.get(color_range, 'auto')}"
    has_alpha = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
    picture = convert(frame, f"{scale}:{EXACT}", "rgba" if has_alpha else "rgb24").to_ndarray()
    if has_alpha:
        picture = (picture[..., :3] * (picture[..., 3:] / 255)).round().astype(np.uint8)
    return _upright(picture, frame)


def _upright(picture: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Turns and mirrors the frame's picture as its display matrix says."""
    try:
        display_matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    except ValueError:  # beside side data that PyAV has no name for (EXIF in PyAV 18), it only gives the angle
        return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))
    if display_matrix is None:
        return picture
    a, b, _, c, d = np.frombuffer(bytes(display_matrix), np.int32)[:5].tolist()  # x' = a x + c y, y' = b x + d y
    if abs(b) > abs(a):
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _fitted(picture: np.ndarray, width: int, height: int, fit: str) -> np.ndarray:
    """The picture (h, w, 3) resized to (height, width, 3) by one of FITS."""
    full_height, full_width = picture.shape[:2]
    inner = width, height
    if fit == "crop":
        scale = max(width / full_width, height / full_height)
        crop_width, crop_height = max(round(width / scale), 1), max(round(height / scale), 1)
        left, top = (full_width - crop_width) // 2, (full_height - crop_height) // 2
        picture = picture[top : top + crop_height, left : left + crop_width]
    if fit == "pad":
        scale = min(width / full_width, height / full_height)
        inner = max(round(full_width * scale), 1), max(round(full_height * scale), 1)
    shrinks = inner[0] < picture.shape[1] or inner[1] < picture.shape[0]
    resized = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    borders = top, height - inner[1] - top, left, width - inner[0] - left
    return cv2.copyMakeBorder(resized, *borders, cv2.BORDER_CONSTANT, value=(0, 0, 0))


def _natural(path: Path) -> list[int | str]:
    """A sort key by which frame2 comes before frame10."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"([0-9]+)", path.name)]


def _width_and_height(size: int | tuple[int, int]) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, Integral) for side in sides):
        raise TavError(f"The size is {size!r}, but a whole number or (width, height) is needed; give 512, for example.")
    if any(side < 8 or side % 8 for side in sides):
        got, nearest = ("x".join(map(str, s)) for s in (sides, [max(8, round(side / 8) * 8) for side in sides]))
        raise TavError(f"The size is {got}, but Stable Diffusion's VAE needs multiples of 8; try {nearest}.")
    return sides


def _check_selection(num_frames: int, start: int, stride: int) -> None:
    if num_frames < 1:
        raise TavError(f"num_frames is {num_frames}, but a clip needs at least one frame; ask for 1 or more.")
    if start < 0:
        raise TavError(f"start is {start}, but frames are counted from 0; give 0 or more.")
    if stride < 0:
        raise TavError(f"stride is {stride}, but a clip runs forward; give 1 or more, or 0 for uniform frames.")


def _check_writable(path: Path, frames: Tensor, fps: float) -> None:
    if path.suffix.lower() != ".mp4":
        raise TavError(f"The video's name is {path.name!r}, but it will be an mp4; give it the suffix .mp4.")
    if "libx264" not in av.codecs_available:
        raise TavError("This PyAV cannot write H.264, for it lacks libx264; get one that can by: pip install av.")
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape or not frames.is_floating_point():
        raise TavError(
            f"A video needs float frames (f, h, w, 3) in 0..1, got {frames.dtype} {tuple(frames.shape)}; "
            "move the colour last, and divide bytes by 255."
        )
    if not isinstance(fps, Real) or not 0.001 <= fps <= 1000:
        raise TavError(f"The fps is {fps!r}, but a number within 0.001..1000 is needed; give 8, for example.")
    low, high = (bound.item() for bound in frames.detach().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise TavError("The frames hold NaN or infinite values, which no video can show; find the step that made them.")
    if low < -0.5 or high > 1.5:
        raise TavError(f"The frames reach from {low:.3g} to {high:.3g}, but 0..1 is needed; rescale them first.")
