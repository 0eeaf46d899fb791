"""Writes frames to mp4 files."""

import math
import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from numbers import Real
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from torch import Tensor

from ..errors import TavError, shown
from ..files import atomic_path
from .containers import address_of, opened
from .frames import yuv
from .pixels import to_uint8
from .sound import Sound
from .sound_track import SoundTrack, check_sound


def write_video(
    path: str | os.PathLike,
    frames: Iterable[Tensor],
    fps: float,
    *,
    comment: str = "",
    sound: Sound | None = None,
) -> None:
    """Writes frames (f, h, w, 3), float in 0..1, to an H.264 mp4 that browsers play, atomically.

    Frames may also come one by one, (h, w, 3), so that a long video need not fit in memory.
    yuv420p needs even sides: an odd one repeats its last row or column. Colours are BT.709, limited range, and tagged
    so. Values up to 0.5 outside 0..1 are a decoder's overshoot and are clipped. comment: kept in the file's metadata,
    for `comment_of`. sound: is heard from the first frame on, until the last has been shown. Raises TavError for any
    other values or shapes, an fps outside 0.001..1000, a suffix other than .mp4, and a file that cannot be written.
    """
    path = Path(path)
    _check_options(path, fps)
    if sound:
        check_sound(sound)
    frames = iter(_checked(frames) if isinstance(frames, Tensor) else map(_checked_frame, frames))
    first = next(frames, None)
    if first is None:
        raise TavError("There are no frames to write; give at least one.")
    height, width = first.shape[:2]
    rate = Fraction(float(fps)).limit_denominator(1001)  # finds 30000/1001 in 29.97003
    odd_height, odd_width = height % 2, width % 2
    colours = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
    muxing = {"format": "mp4", "options": {"movflags": "+faststart"}}
    try:
        with atomic_path(path) as temporary, av.open(address_of(temporary), "w", **muxing) as container:
            if comment:
                container.metadata["comment"] = comment
            stream = container.add_stream("libx264", rate=rate, options={"crf": "17", **colours})
            stream.width, stream.height = width + odd_width, height + odd_height
            stream.pix_fmt = "yuv420p"
            track = sound and SoundTrack(container, sound)
            for number, pixels in enumerate(chain([first], frames)):
                if pixels.shape != first.shape:
                    shapes = f"{tuple(first.shape)} and then {tuple(pixels.shape)}"
                    raise TavError(f"The frames are {shapes}, but a video has one size; resize them first.")
                image = to_uint8(pixels)
                image = np.pad(image, ((0, odd_height), (0, odd_width), (0, 0)), mode="edge")
                frame = yuv(image)
                frame.pts, frame.time_base = number, 1 / rate
                container.mux(stream.encode(frame))
                if track:
                    track.write_until(float((number + 1) / rate))
            container.mux(stream.encode(None))
            if track:
                track.close()
    except (OSError, FFmpegError) as error:
        raise TavError(
            f"{path} could not be written ({error.strerror}); choose another folder or free some space."
        ) from error


def comment_of(path: Path) -> str:
    """The comment in a video file; empty where there is none, or no video."""
    try:
        if not path.is_file():  # a pipe would keep it waiting
            return ""
        with opened(path) as container:
            metadata = {name.lower(): value for name, value in container.metadata.items()}  # mkv and webm shout
        return metadata.get("comment", "")
    except (OSError, FFmpegError, ValueError):
        return ""


def _check_options(path: Path, fps: float) -> None:
    if path.suffix.lower() != ".mp4":
        raise TavError(f"The video's name is {path.name!r}, but it will be an mp4; give it the suffix .mp4.")
    if "libx264" not in av.codecs_available:
        raise TavError("This PyAV cannot write H.264, because it lacks libx264; install one that can: pip install av.")
    if not isinstance(fps, Real) or not 0.001 <= fps <= 1000:
        raise TavError(f"The fps is {shown(fps)}, but a number within 0.001..1000 is needed; give 8, for example.")


def _checked_frame(frame: Tensor) -> Tensor:
    return _checked(frame[None])[0]


def _checked(frames: Tensor) -> Tensor:
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape or not frames.is_floating_point():
        raise TavError(
            f"A video needs float frames (f, h, w, 3) in 0..1, got {frames.dtype} {tuple(frames.shape)}; "
            "move the colour last, and divide bytes by 255."
        )
    low, high = (bound.item() for bound in frames.detach().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise TavError("The frames hold NaN or infinite values; find the step that produced them.")
    if low < -0.5 or high > 1.5:
        raise TavError(f"The frames reach from {low:.3g} to {high:.3g}, but 0..1 is needed; rescale them first.")
    return frames
