"""Reads animated WebP files, which ComfyUI's own nodes write and FFmpeg cannot decode."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import TavError
from .frames import on_black, upright
from .image_folder import DAMAGE, FOLDER_FPS, orientation_of


class AnimatedWebP:
    """An animated WebP file as a FrameSource."""

    notes = ()

    def __init__(self, path: Path):
        self.path = path
        try:
            with self._opened() as image:
                self.matrix = orientation_of(image)
                seconds = [self._shown(image, number).info["duration"] / 1000 for number in range(image.n_frames)]
        except DAMAGE as error:
            raise self._damaged() from error
        self.moments = [0.0, *itertools.accumulate(seconds[:-1])]
        self.num_frames = len(self.moments)
        self.fps = (self.num_frames - 1) / self.moments[-1] if self.moments[-1] else FOLDER_FPS

    def frames(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """Yields the chosen frames, uint8 (h, w, 3), on black where transparent."""
        with self._opened() as image:
            for number in chosen:
                try:
                    pixels = np.asarray(self._shown(image, number).convert("RGBA"))
                except DAMAGE as error:
                    raise self._damaged() from error
                yield upright(on_black(pixels[..., :3], pixels[..., 3:] / 255), self.matrix)

    def _opened(self) -> Image.Image:
        return Image.open(self.path, formats=["WEBP"])

    def _shown(self, image: Image.Image, number: int) -> Image.Image:
        image.seek(number)
        image.load()
        return image

    def _damaged(self) -> TavError:
        return TavError(f"{self.path} is damaged or cut short; download or export it again.")
