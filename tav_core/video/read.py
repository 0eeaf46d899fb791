"""Reads frames of videos, GIFs and folders of images into tensors."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import TavError
from .choose import check_choice, check_size, choose_frames, pace
from .frames import fitted
from .source import FrameSource, frames_of, open_source


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames (f, h, w, 3), float32 in 0..1 or uint8 in 0..255, and the frame rate (1/s) that keeps the source's speed.

    notes: warnings for the user. by_time: whether the frames were chosen by time. start: when the first of them is
    shown, in seconds of the source. Unpacks to frames and fps.
    """

    frames: Tensor
    fps: float
    notes: Sequence[str] = ()
    by_time: bool = False
    start: float = 0.0

    @property
    def seconds(self) -> float:
        """How long the frames are shown."""
        return len(self.frames) / self.fps

    def __iter__(self) -> Iterator:
        return iter((self.frames, self.fps))


def read_frames(
    path: str | os.PathLike,
    num_frames: int = 24,
    *,
    size: int | tuple[int, int] = 512,
    start: int = 0,
    stride: int = 0,
    fit: str = "crop",
    at_most: bool = False,
    by_time: bool | None = None,
    as_bytes: bool = False,
) -> Clip:
    """Reads `num_frames` frames of a video, a GIF, an animated WebP or a folder of images.

    Stride 0 spreads the frames uniformly from frame `start` to the last; otherwise every `stride`-th is taken, as in
    the original. Frames are counted as displayed: in time order, with edit lists applied. Where the frame rate varies,
    uniform frames are uniform in time, unless `by_time` is False (see `choose_frames`).
    A folder is read in natural order (frame2 before frame10) as if at 8 frames a second; its images share one size.

    `size` is a side or (width, height), in multiples of 8. "crop" keeps the aspect ratio and the centre, "pad" keeps
    the aspect ratio and the whole image, on black, "stretch" keeps neither. Shrinking averages areas (INTER_AREA),
    enlarging is bicubic. Transparent pixels are blended with black. Interlaced frames are deinterlaced. HDR and wide
    gamut become BT.709. YUV with an unspecified colour matrix is read as in browsers: BT.709 from 720 lines on, BT.601
    below.
    `at_most` takes fewer frames where there are not as many. `as_bytes` gives uint8 frames, which need a quarter of the
    memory; without it they are float32. Raises TavError for invalid options and missing or damaged
    files; damage that leaves every frame to be shown is told in the clip's `notes`.
    """
    path = Path(path)
    check_choice(num_frames, size, start, stride, fit, by_time)
    if not path.exists():
        raise TavError(f"There is no file or folder {path}; check the path of the video.")
    selection = {"size": size, "start": start, "stride": stride, "fit": fit, "at_most": at_most, "by_time": by_time}
    return take_frames(open_source(path), num_frames, **selection, name=str(path), as_bytes=as_bytes)


def take_frames(
    source: FrameSource,
    num_frames: int,
    *,
    size: int | tuple[int, int] = 512,
    start: int = 0,
    stride: int = 0,
    fit: str = "crop",
    name: str = "The clip",
    at_most: bool = False,
    by_time: bool | None = None,
    as_bytes: bool = False,
) -> Clip:
    """As `read_frames`, from a source that is already open; `name` begins error messages."""
    check_choice(num_frames, size, start, stride, fit, by_time)
    width, height = check_size(size)
    try:
        chosen, by_time = choose_frames(source.moments, num_frames, start, stride, by_time=by_time, at_most=at_most)
    except TavError as error:
        raise TavError(f"{name}: {error}") from None
    frames = torch.empty(len(chosen), height, width, 3, dtype=torch.uint8 if as_bytes else torch.float32)
    for frame, image in zip(frames, frames_of(source, chosen), strict=True):
        frame.copy_(torch.from_numpy(fitted(image, width, height, fit)))
    if not as_bytes:
        frames.div_(255)
    moment = source.moments[chosen[0]]
    start = chosen[0] / source.fps if moment is None else moment
    return Clip(frames, _rate(source, chosen, by_time), tuple(source.notes), by_time, start)


def _rate(source: FrameSource, chosen: Sequence[int], by_time: bool) -> float:
    """The rate at which the chosen frames play at the source's speed."""
    steps, first, last = len(chosen) - 1, chosen[0], chosen[-1]
    if by_time and source.moments[last] > source.moments[first]:
        return steps / (source.moments[last] - source.moments[first])
    if last == first:
        return source.fps
    return pace(source.moments[first : last + 1], source.fps) * steps / (last - first)
