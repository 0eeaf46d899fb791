"""Reads images as a video: a folder of them, or a single one."""

import contextlib
import io
import re
import struct
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
STRICT = {"mjpeg": {"err_detect": "explode"}, "png": {"err_detect": "crccheck"}}
"""Options of FFmpeg's decoders, which by default guess what they cannot decode."""
DAMAGE = (OSError, EOFError, ValueError, SyntaxError, LookupError, struct.error, Image.DecompressionBombError)
"""What Pillow raises of odd files."""
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


class Images:
    """Image files of one size as a FrameSource."""

    fps, notes = FOLDER_FPS, ()

    def __init__(self, files: Sequence[Path]):
        self.files, self.num_frames = files, len(files)
        self.moments = [number / self.fps for number in range(self.num_frames)]

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


class ImageFolder(Images):
    """The images of a folder, in natural order."""

    def __init__(self, path: Path):
        images = (f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith("."))
        images = [file for file in images if file.is_file()]  # no pipe, whose end would never come
        super().__init__(sorted(images, key=natural_order))
        if not self.files:
            raise TavError(f"The folder {path} has no images; give a folder of png, jpg, webp, bmp or tiff files.")


def read_image(path: Path) -> np.ndarray:
    """Reads an image as displayed, uint8 (h, w, 3); raises TavError unless it can be read in whole."""
    try:
        # as bytes without a name, in which %d would be a pattern
        data = path.read_bytes()
        with av.open(io.BytesIO(data), options=only(IMAGES)) as container:
            codec = container.streams.video[0].codec_context
            codec.options = STRICT.get(codec.name, {})
            image = _by_pillow(data) if codec.name == "tiff" else None
            if image is None:
                frame = next(container.decode(video=0))
                image = rgb(frame, transfer=int(codec.color_trc), primaries=int(codec.color_primaries))
            if codec.name == "mjpeg" and _ends_in_zeros(data):
                raise OSError
            return upright(image, _orientation(data))
    except (*DAMAGE, FFmpegError, StopIteration) as error:
        raise TavError(
            f"{path} cannot be read as an image, or is damaged; replace it or remove it from the folder."
        ) from error


def _by_pillow(tiff: bytes) -> np.ndarray | None:
    """A TIFF compressed as JPEG, which FFmpeg reads black; None for others. Raises one of DAMAGE if it is damaged.

    FFmpeg's decoder does not tell of damage; in its strict mode, it refuses every tag that it does not know.
    """
    try:
        image = Image.open(io.BytesIO(tiff), formats=["TIFF"])
    except DAMAGE:  # or rather a kind that Pillow does not know
        return None
    image.load()
    return np.asarray(image.convert("RGB")) if "jpeg" in str(image.info.get("compression")) else None


def _ends_in_zeros(jpeg: bytes) -> bool:
    """Whether the rest was never written, as in an interrupted download: decoders take zeros for an image."""
    return jpeg.endswith(bytes(16)) and jpeg.rfind(b"\xff\xd9") < jpeg.rfind(b"\xff\xda")


def _orientation(data: bytes) -> tuple[int, int, int, int]:
    with contextlib.suppress(*DAMAGE):
        return orientation_of(Image.open(io.BytesIO(data)))
    return UPRIGHT


def orientation_of(image: Image.Image) -> tuple[int, int, int, int]:
    """The display matrix that an image's EXIF data tell; PyAV gives rotations alone."""
    return ORIENTATIONS.get(image.getexif().get(ORIENTATION), UPRIGHT)


def natural_order(path: Path) -> list[int | str]:
    """A sort key that puts frame2 before frame10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [int(part) if number % 2 else part.lower() for number, part in enumerate(parts)]
