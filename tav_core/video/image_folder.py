"""A folder of images, read as if it were a video."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from ..errors import TavError
from .frames import rgb, turned_by, upright

FOLDER_FPS = 8.0  # at which the original implementation shows its results
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class ImageFolder:
    """A folder of images as a source of pictures."""

    fps = FOLDER_FPS

    def __init__(self, path: Path):
        images = (f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith("."))
        self.files = sorted(images, key=natural_order)
        self.num_frames = len(self.files)
        if not self.files:
            raise TavError(f"The folder {path} holds no images; give a folder of png, jpg, webp, bmp or tiff files.")

    def pictures(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """The chosen images, uint8 (h, w, 3)."""
        shape = None
        for file in (self.files[index] for index in chosen):
            picture = read_image(file)
            shape = shape or picture.shape
            if picture.shape != shape:
                raise TavError(
                    f"{file} is {picture.shape[1]}x{picture.shape[0]}, but the images before it are "
                    f"{shape[1]}x{shape[0]}; give a folder of images of one size."
                )
            yield picture


def read_image(path: Path) -> np.ndarray:
    """The image as shown, uint8 (h, w, 3)."""
    try:
        with path.open("rb") as file, av.open(file) as container:  # not by name, where %d would be a pattern
            frame = next(container.decode(video=0))
            return upright(rgb(frame), turned_by(frame.rotation))
    except (OSError, FFmpegError, StopIteration, IndexError) as error:
        raise TavError(f"{path} cannot be read as an image; replace it or take it out of the folder.") from error


def natural_order(path: Path) -> list[int | str]:
    """A sort key by which frame2 comes before frame10."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"([0-9]+)", path.name)]
