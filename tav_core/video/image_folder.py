"""Reads a folder of images as a video."""

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from ..errors import TavError
from .containers import IMAGES, only
from .frames import rgb, turned_by, upright

FOLDER_FPS = 8.0  # the rate of the original implementation's results
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class ImageFolder:
    """A folder of images as a FrameSource."""

    fps = FOLDER_FPS

    def __init__(self, path: Path):
        images = (f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith("."))
        images = [file for file in images if file.is_file()]  # no pipe, whose end would never come
        self.files = sorted(images, key=natural_order)
        self.num_frames = len(self.files)
        if not self.files:
            raise TavError(f"The folder {path} has no images; give a folder of png, jpg, webp, bmp or tiff files.")

    def frames(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """Yields the chosen images, uint8 (h, w, 3)."""
        shape = None
        for file in (self.files[index] for index in chosen):
            image = read_image(file)
            shape = shape or image.shape
            if image.shape != shape:
                raise TavError(
                    f"{file} is {image.shape[1]}x{image.shape[0]}, but the images before it are "
                    f"{shape[1]}x{shape[0]}; give a folder of images of one size."
                )
            yield image


def read_image(path: Path) -> np.ndarray:
    """Reads an image as displayed, uint8 (h, w, 3)."""
    try:
        # as bytes without a name, in which %d would be a pattern
        with av.open(io.BytesIO(path.read_bytes()), options=only(IMAGES)) as container:
            frame = next(container.decode(video=0))
            return upright(rgb(frame), turned_by(frame.rotation))
    except (OSError, FFmpegError, StopIteration, IndexError) as error:
        raise TavError(f"{path} cannot be read as an image; replace it or remove it from the folder.") from error


def natural_order(path: Path) -> list[int | str]:
    """A sort key that puts frame2 before frame10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [int(part) if number % 2 else part.lower() for number, part in enumerate(parts)]
