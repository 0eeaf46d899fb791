"""Reads a folder of images as a video."""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image

from ..errors import TavError
from .containers import IMAGES, only
from .frames import rgb, upright

FOLDER_FPS = 8.0  # the rate of the original implementation's results
ORIENTATION, UPRIGHT = 0x0112, (1, 0, 0, 1)
ORIENTATIONS = {
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
"""EXIF's orientations as display matrices; see `display_matrix`."""
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
        data = path.read_bytes()
        with av.open(io.BytesIO(data), options=only(IMAGES)) as container:
            return upright(rgb(next(container.decode(video=0))), _orientation(data))
    except (OSError, FFmpegError, StopIteration, IndexError) as error:
        raise TavError(f"{path} cannot be read as an image; replace it or remove it from the folder.") from error


def _orientation(data: bytes) -> tuple[int, int, int, int]:
    """The display matrix that an image's EXIF data tell; PyAV gives rotations alone."""
    with contextlib.suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's, of odd files
        return ORIENTATIONS.get(Image.open(io.BytesIO(data)).getexif().get(ORIENTATION), UPRIGHT)
    return UPRIGHT


def natural_order(path: Path) -> list[int | str]:
    """A sort key that puts frame2 before frame10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [int(part) if number % 2 else part.lower() for number, part in enumerate(parts)]
