"""Reads any frames of a video file by index, decoding few others and holding one in memory at a time.

The file is read twice: once for its timeline, from its packets if they are reliable and else by decoding, and once for
the chosen frames, seeking to the keyframe before each.
"""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition

from ..errors import TavError
from .containers import IMAGES, VIDEOS, ensure_regular, opened
from .deinterlace import Shot, whole, with_neighbours
from .frames import display_matrix, rgb, upright

UNKNOWN_FPS = 8.0  # of a single frame without a stated rate

# Codecs with exactly one displayed frame per packet. Others have hidden frames (VP8's alt-ref frames, MPEG-4's skipped
# ones) or are too rare to trust, so their frames are counted by decoding.
FRAME_PER_PACKET = {"h264", "hevc", "vp9", "av1", "mjpeg", "prores", "ffv1"}

WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
Decode = Callable[[av.Packet], list[av.VideoFrame]]
DAMAGE = (FFmpegError, IndexError, ValueError)  # the last two are PyAV's own, where streams or times make no sense


class _Lost(Exception):
    """Packets or a seek do not lead to every frame; only decoding from the start does."""


class VideoFile:
    """A video file as a FrameSource: its timeline, and any of its frames in display order.

    Of several video streams it is the one that players choose; covers are none. Interlaced frames lose their combs.
    `times` identifies each frame: by its pts if the timeline is from packets, by its index if it is from decoding.
    `moments` holds the seconds at which each frame is displayed, None where the file does not say.
    `keyframes` holds the pts at which decoding can start; it is empty if only decoding from the start is safe.
    `corrupt` holds the indices of frames, among those decoded so far, whose damage FFmpeg has concealed.
    """

    def __init__(self, path: Path):
        self.path, self.corrupt = path, set()
        ensure_regular(path)
        with self._opened() as (container, stream):
            self.format = container.format.name
            self.rate = stream.average_rate
            self.pixel_aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
            self.colours = int(stream.codec_context.color_trc), int(stream.codec_context.color_primaries)
            self.stated = stream.frames  # 0 where the header does not say
        try:
            self._read_packets()
        except (_Lost, *DAMAGE):
            self._read_by_decoding()
        if not self.times:
            raise TavError(f"{path} has a video stream without frames; give another file.")
        self.num_frames = len(self.times)

    @property
    def is_image(self) -> bool:
        """Whether it is a still image, which is rather to be read by `read_image`."""
        return self.format.endswith("_pipe")

    @property
    def fps(self) -> float:
        """The stated rate if it matches the timeline to half a frame (mkv rounds times), else the mean rate."""
        steps = self.num_frames - 1
        if self.rate and abs(float(self.rate) * self.seconds - steps) < 0.5:
            return float(self.rate)
        if steps and self.seconds > 0:
            return steps / self.seconds
        return float(self.rate or UNKNOWN_FPS)

    @property
    def notes(self) -> list[str]:
        """Warnings for the user about the frames read so far."""
        if not self.corrupt:
            return []
        numbers = sorted(self.corrupt)
        several = len(numbers) > 1
        named = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
        return [
            f"{self.path.name} is damaged at frame{'s' * several} {named}, counted from 0; what is shown from there on "
            "is guessed, and may look wrong."
        ]

    def frames(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """Yields the chosen frames, uint8 (h, w, 3)."""
        matrix = None
        for frame in self._decoded(chosen):
            try:
                matrix = matrix or display_matrix(frame)
                image = upright(rgb(frame, self.pixel_aspect, *self.colours), matrix)
            except FFmpegError as error:
                raise self._damaged() from error
            yield image

    def _decoded(self, chosen: Sequence[int]) -> Iterator[av.VideoFrame]:
        """Yields the chosen frames: found by pts if that finds them all, else by counting."""
        found = 0
        try:
            for frame in self._frames_at([self.times[index] for index in chosen]):
                yield frame
                found += 1
            return
        except (_Lost, *DAMAGE):
            self._read_by_decoding()
        if len(self.times) != self.num_frames:
            raise self._damaged()
        yield from self._frames_at(chosen[found:])

    def _read_packets(self) -> None:
        """Reads the timeline without decoding; raises _Lost if packets are not frames, lack times, or end early."""
        packets = []
        with self._opened() as (container, stream):
            if stream.codec_context.name not in FRAME_PER_PACKET or self.format == "avi":  # avi stores no pts
                raise _Lost
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise _Lost
                if packet.size and not packet.is_discard:  # discarded by an edit list
                    packets.append((packet.pts, packet.is_keyframe))
            time_base = stream.time_base
        self.times = sorted({pts for pts, _ in packets if pts is not None})
        self.keyframes = sorted(pts for pts, is_keyframe in packets if is_keyframe and pts is not None)
        self.moments = [float(pts * time_base) for pts in self.times]
        starts_with_keyframe = self.keyframes[:1] == self.times[:1]  # frames before it may never be displayed
        if is_cut_short(self.path) or len(self.times) < len(packets) or not starts_with_keyframe:
            raise _Lost
        self.seconds = float((self.times[-1] - self.times[0]) * time_base) if packets else 0.0

    def _read_by_decoding(self) -> None:
        """Reads the timeline by decoding the whole file; raises TavError if the file is damaged or cut short."""
        packets, whole, moments = 0, not is_cut_short(self.path), []
        with self._opened() as (container, stream):
            try:
                decode = _decoder(stream)
                for packet in container.demux(stream):
                    moments += [frame.time for frame in decode(packet)]
                    packets += packet.size > 0
                    whole = whole and not packet.is_corrupt
            except DAMAGE:
                whole = False
        self.times, self.keyframes, self.moments = range(len(moments)), [], moments
        # The count in mov and mp4 includes frames that edit lists remove; there, an early end shows in other ways.
        if not whole or (packets < self.stated and "mov" not in self.format):
            raise self._damaged()
        known = [moment for moment in moments if moment is not None]
        self.seconds = max(known) - min(known) if known else 0.0

    def _frames_at(self, times: Sequence[int]) -> Iterator[av.VideoFrame]:
        with self._opened() as (container, stream):
            now, shots = self.times[0], self._shots(container.demux(stream), _decoder(stream))
            for time in times:
                keyframe = self.keyframes[bisect_right(self.keyframes, time) - 1] if self.keyframes else now
                if keyframe > now:
                    shots = self._shots(_packets_from(container, stream, keyframe), _decoder(stream))
                shot = next((shot for shot in shots if shot.now >= time), None)
                if shot is None or shot.now != time:
                    raise _Lost
                now = time
                yield whole(shot)

    def _shots(self, packets: Iterator[av.Packet], decode: Decode) -> Iterator[Shot]:
        return with_neighbours(self._timed(packets, decode))

    def _timed(self, packets: Iterator[av.Packet], decode: Decode) -> Iterator[tuple[int, av.VideoFrame]]:
        index = itertools.count()
        for packet in packets:
            for frame in decode(packet):
                if self.keyframes and frame.pts is None:
                    raise _Lost
                now = frame.pts if self.keyframes else next(index)
                if frame.is_corrupt:
                    self.corrupt.add(bisect_left(self.times, now))
                yield now, frame

    @contextmanager
    def _opened(self) -> Iterator[tuple[av.container.InputContainer, av.video.stream.VideoStream]]:
        try:
            container = opened(self.path, f"{VIDEOS},{IMAGES}")
        except (OSError, *DAMAGE) as error:
            raise TavError(
                f"{self.path} is not a video, or an incomplete one ({getattr(error, 'strerror', None) or error}); "
                "give an mp4, mov, mkv, webm or gif file, or a folder of images."
            ) from error
        with container:
            stream = _moving(container)
            if stream is None or container.format.name == "tty":  # FFmpeg plays text files, too
                raise TavError(f"{self.path} has no video stream; give a video file or a folder of images.")
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


def _moving(container: av.container.InputContainer) -> av.video.stream.VideoStream | None:
    """The stream that players show, switched on and of more than one frame if there is any; None of covers alone."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    streams = [stream for stream in streams if stream.frames != 1] or streams  # 0: unknown
    best = container.streams.best("video")
    if best in streams:
        return best
    return max(streams, key=lambda stream: stream.disposition & Disposition.default, default=None)


def _decoder(stream: av.video.stream.VideoStream) -> Decode:
    """Decodes packets; with transparency where a WebM has any, which FFmpeg's own decoders ignore."""
    library = WITH_ALPHA.get(stream.codec_context.name)
    if stream.metadata.get("alpha_mode") != "1" or library not in av.codecs_available:
        return lambda packet: packet.decode()
    codec = av.CodecContext.create(library, "r")
    return lambda packet: codec.decode(packet if packet.size else None)


def _packets_from(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, keyframe: int
) -> Iterator[av.Packet]:
    """Yields packets from a keyframe (its pts) or an earlier one on; raises _Lost if the seek leads elsewhere."""
    container.seek(keyframe, stream=stream)
    packets = container.demux(stream)
    first = next(packets)
    if not first.is_keyframe or first.pts is None or first.pts > keyframe:
        raise _Lost
    yield from itertools.chain([first], packets)


MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"styp", b"sidx", b"free", b"skip", b"wide", b"uuid"}


def is_cut_short(path: Path) -> bool:
    """Whether the file ends before its outermost element does, which FFmpeg often takes for the end of the video."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
        if head.startswith(b"GIF8"):
            file.seek(max(size - 64, 0))
            return not file.read().rstrip(b"\0\r\n").endswith(b";")
        if head.startswith(b"\x1a\x45\xdf\xa3"):  # Matroska: one segment; leading zeros of its length count its bytes
            offset = head.find(b"\x18\x53\x80\x67") + 4
            width = 9 - head[offset].bit_length()
            length = int.from_bytes(head[offset : offset + width], "big") - (1 << 7 * width)
            unknown = (1 << 7 * width) - 1  # a live recording
            return length != unknown and offset + width + length > size
        offset, box = 0, head
        while box[4:8] in MP4_BOXES:
            length = int.from_bytes(box[:4], "big")
            length = int.from_bytes(box[8:16], "big") if length == 1 else length or size - offset  # 0: to the end
            offset += max(length, 8)
            file.seek(offset)
            box = file.read(16)
        return offset > size
