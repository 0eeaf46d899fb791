"""A VIDEO socket's clip as a source of frames; only the chosen ones are decoded."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import folder_paths
import numpy as np
from comfy_api.latest import Input

from ...tav_core.errors import TavError
from ...tav_core.video.decode import VideoFile
from ...tav_core.video.pixels import to_uint8


@contextmanager
def opened(clip: Input.Video) -> Iterator["Frames | Trimmed"]:
    """The frames of a VIDEO within its trim; a temporary file, if one is needed, is deleted afterwards."""
    if type(clip).get_stream_source is Input.Video.get_stream_source:  # no stream: the frames are in memory already
        yield Frames(clip)
        return
    source = clip.get_stream_source()
    window = clip.get_active_trim_window() if hasattr(clip, "get_active_trim_window") else (0.0, 0.0)  # not in 0.3.64
    if isinstance(source, str):
        yield Trimmed(VideoFile(Path(source)), *window)
        return
    with tempfile.TemporaryDirectory(dir=_temp_folder()) as folder:
        path = Path(folder, "clip")
        path.write_bytes(source.getbuffer())
        yield Trimmed(VideoFile(path), *window)


class Trimmed:
    """The frames of a video from `start` for `duration`, both in seconds; a duration of 0 means to the end."""

    def __init__(self, video: VideoFile, start: float, duration: float):
        # microseconds, since 0.1 s + 0.2 s is 0.30000000000000004, which would let in the frame at 0.3 s
        start_us, end_us = 1e6 * start, 1e6 * (start + duration) if duration else math.inf
        self.video, moments = video, enumerate(video.moments)
        self.kept = [n for n, moment in moments if moment is None or start_us - 1 < 1e6 * moment < end_us - 1]
        if not self.kept:
            raise TavError(f"The clip is trimmed to nothing: {duration:g} s from {start:g} s; trim it less.")
        self.num_frames, self.fps = len(self.kept), video.fps

    def frames(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        return self.video.frames([self.kept[number] for number in chosen])


class Frames:
    """The frames of a VIDEO that another node made from images (f, h, w, 3) in 0..1."""

    def __init__(self, clip: Input.Video):
        # safe: part of comfy_api's stable interface, like everything used of a VIDEO here
        components = clip.get_components()
        self.images, self.fps = components.images, float(components.frame_rate)
        self.num_frames = len(self.images)

    def frames(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        for number in chosen:
            yield to_uint8(self.images[number, ..., :3])


def _temp_folder() -> str:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)
