"""A mask as given in the shell: images, or a word of the clip's prompt."""

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import TavError, need, shown
from ..video.pixels import to_float
from .control_choice import control_images
from .selection import Selection

FORM = "PATH|WORD:word"


@dataclass(frozen=True)
class MaskChoice:
    """Where an edit may change the clip.

    pictures: a clip, a folder or a single image, white where it may; or None, and then it may where the network looks
        for `words`.
    grow: by how many pixels the mask is dilated.
    """

    pictures: Path | None = None
    words: str = ""
    grow: int = 0

    def __post_init__(self):
        need(self.grow >= 0, "mask_grow", self.grow, "at least 0 pixels")

    @classmethod
    def parse(cls, text: str, grow: int = 0) -> "MaskChoice":
        """Parses PATH or WORD:word, as given in the shell."""
        if match := re.fullmatch(r"(?i:word):\s*(\S.*)", text):
            return cls(words=match[1].strip(), grow=grow)
        if not text.strip() or re.fullmatch(r"(?i:word):\s*", text):
            raise TavError(f"Cannot parse the mask {shown(text)}; give {FORM}, for example WORD:ball.")
        return cls(Path(text), grow=grow)

    def as_metadata(self) -> dict:
        """Its fields as JSON holds them, with the file's name instead of its path."""
        return {"pictures": self.pictures and self.pictures.name, "words": self.words or None, "grow": self.grow}

    def read(self, selection: Selection, notes: list[str]) -> Tensor | None:
        """The images for the frames of a selection, (f or 1, h, w) in 0..1; None for words.

        notes: takes warnings about the images.
        """
        return to_float(control_images(self.pictures, selection, notes)).mean(dim=-1) if self.pictures else None
