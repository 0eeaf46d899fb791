"""Reads frames of videos, GIFs and folders of images into tensors."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import TavError
from .choose import check_choice, check_size, select_frames
from .decode import VideoFile
from .frames import fitted
from .image_folder import ImageFolder


class Clip(NamedTuple):
    """Frames (f, h, w, 3), float32 in 0..1, and the frame rate (1/s) that keeps the source's speed."""

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
    at_most: bool = False,
) -> Clip:
    """Reads `num_frames` frames of a video, a GIF or a folder of images.

    Stride 0 spreads the frames uniformly from frame `start` to the last; otherwise every `stride`-th is taken, as in
    the original. Frames are counted as displayed: in time order, with edit lists applied, at any rate.
    A folder is read in natural order (frame2 before frame10) as if at 8 frames a second; its images share one size.

    `size` is a side or (width, height), in multiples of 8. "crop" keeps the aspect ratio and the centre, "pad" keeps
    the aspect ratio and the whole image, on black, "stretch" keeps neither. Shrinking averages areas (INTER_AREA),
    enlarging is bicubic. Transparent pixels are blended with black. YUV with an unspecified colour matrix is read as in
    browsers: BT.709 from 720 lines on, BT.601 below.
    `at_most` takes fewer frames where there are not as many. Raises TavError for invalid options and missing or damaged
    files.
    """
    path = Path(path)
    check_choice(num_frames, size, start, stride, fit)
    if not path.exists():
        raise TavError(f"There is no file or folder {path}; check the path of the video.")
    source = ImageFolder(path) if path.is_dir() else VideoFile(path)
    selection = {"size": size, "start": start, "stride": stride, "fit": fit, "at_most": at_most}
    return take_frames(source, num_frames, **selection, name=str(path))


class FrameSource(Protocol):
    """A source of frames: how many, their rate (1/s), and the chosen ones, uint8 (h, w, 3)."""

    num_frames: int
    fps: float

    def frames(self, chosen: Sequence[int]) -> Iterable[np.ndarray]: ...


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
) -> Clip:
    """As `read_frames`, from a source that is already open; `name` begins error messages."""
    check_choice(num_frames, size, start, stride, fit)
    width, height = check_size(size)
    try:
        chosen = select_frames(source.num_frames, num_frames, start, stride, at_most=at_most)
    except TavError as error:
        raise TavError(f"{name}: {error}") from None
    frames = torch.empty(len(chosen), height, width, 3)
    for frame, image in zip(frames, source.frames(chosen), strict=True):
        frame.copy_(torch.from_numpy(fitted(image, width, height, fit))).div_(255)
    frames_per_step = (chosen[-1] - chosen[0]) / (len(chosen) - 1) if len(chosen) > 1 else 1
    return Clip(frames, source.fps / frames_per_step)
