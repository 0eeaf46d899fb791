"""Opens whatever holds frames: a video, a GIF, an animated WebP, an image, or a folder of images."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from .animated_webp import AnimatedWebP
from .containers import ensure_regular, is_animated_webp
from .decode import VideoFile
from .image_folder import ImageFolder, Images


class FrameSource(Protocol):
    """A source of frames: how many, their rate (1/s), and the chosen ones, uint8 (h, w, 3), in increasing order.

    moments: the seconds at which each frame is displayed, None where unknown. notes: warnings about the frames read.
    """

    num_frames: int
    fps: float
    moments: Sequence[float | None]
    notes: Sequence[str]

    def frames(self, chosen: Sequence[int]) -> Iterable[np.ndarray]: ...


def open_source(path: Path) -> FrameSource:
    """Opens a file or a folder that exists; raises TavError if it is none of these, or is damaged."""
    if path.is_dir():
        return ImageFolder(path)
    ensure_regular(path)
    if is_animated_webp(path):
        return AnimatedWebP(path)
    video = VideoFile(path)
    return Images([path]) if video.is_image else video


def frames_of(source: FrameSource, chosen: Sequence[int]) -> Iterator[np.ndarray]:
    """Yields the chosen frames, never decreasing; one that was chosen twice is decoded once."""
    distinct = sorted(set(chosen))
    for number, image in zip(distinct, source.frames(distinct), strict=True):
        yield from itertools.repeat(image, chosen.count(number))
