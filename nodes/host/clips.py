"""A VIDEO socket's clip as a source of frames; only the chosen ones are decoded."""

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import folder_paths
import numpy as np
from comfy_api.latest import Input

from ...tav_core.errors import TavError
from ...tav_core.video.frames import on_black
from ...tav_core.video.pixels import to_uint8
from ...tav_core.video.source import FrameSource, open_source


@contextmanager
def opened(clip: Input.Video) -> Iterator["Frames | Trimmed"]:
    """The frames of a VIDEO within its trim; a temporary file, if one is needed, is deleted afterwards."""
    if type(clip).get_stream_source is Input.Video.get_stream_source:  # no stream: the frames are in memory already
        yield Frames(clip)
        return
    source = clip.get_stream_source()
    window = clip.get_active_trim_window() if hasattr(clip, "get_active_trim_window") else (0.0, 0.0)  # not in 0.3.64
    if isinstance(source, str):
        yield Trimmed(open_source(_existing(source)), *window)
        return
    with tempfile.TemporaryDirectory(dir=_temp_folder()) as folder:
        path = Path(folder, "clip")
        path.write_bytes(source.getbuffer())
        yield Trimmed(open_source(path), *window)


class Trimmed:
    """The frames of a video from `start` for `duration`, both in seconds; a duration of 0 means to the end."""

    def __init__(self, video: FrameSource, start: float, duration: float):
        # microseconds, since 0.1 s + 0.2 s is 0.30000000000000004, which would let in the frame at 0.3 s
        start_us, end_us = 1e6 * start, 1e6 * (start + duration) if duration else math.inf
        self.video, moments = video, enumerate(video.moments)
        self.kept = [n for n, moment in moments if moment is None or start_us - 1 < 1e6 * moment < end_us - 1]
        if not self.kept:
            raise TavError(f"The clip is trimmed to nothing: {duration:g} s from {start:g} s; trim it less.")
        self.num_frames, self.fps = len(self.kept), video.fps
        self.moments = [video.moments[number] for number in self.kept]

    @property
    def notes(self) -> Sequence[str]:
        return self.video.notes

    def frames(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        return self.video.frames([self.kept[number] for number in chosen])


class Frames:
    """The frames of a VIDEO that another node made from images (f, h, w, 3 or 4) in 0..1.

    They are blended with black where they are transparent. audio: an AUDIO; None if there is none.
    """

    notes = ()

    def __init__(self, clip: Input.Video):
        # safe: part of comfy_api's stable interface, like everything used of a VIDEO here
        components = clip.get_components()
        self.images, self.audio, self.fps = components.images, components.audio, float(components.frame_rate)
        self.num_frames = len(self.images)
        self.moments = [number / self.fps for number in range(self.num_frames)]

    def frames(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        for number in chosen:
            image = self.images[number]
            if not image.isfinite().all():
                raise TavError(
                    f"Frame {number} of the clip, counted from 0, holds NaN or infinite values; find the node that "
                    "made them."
                )
            pixels = to_uint8(image)
            yield on_black(pixels[..., :3], pixels[..., 3:] / 255) if pixels.shape[-1] == 4 else pixels


def _existing(source: str) -> Path:
    if not os.path.exists(source):
        raise TavError(f"The clip's file {source[:200]!r} is gone; choose another.")
    return Path(source)


def _temp_folder() -> str:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)
