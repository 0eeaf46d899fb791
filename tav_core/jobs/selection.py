"""The frames of a clip that a job works on."""

from dataclasses import dataclass
from pathlib import Path

from ..video.read import Clip, read_frames


@dataclass(frozen=True)
class Selection:
    """Frames of a clip and their size; the fields are the arguments of `read_frames`."""

    clip: Path
    frames: int = 24
    size: int | tuple[int, int] = 512
    start: int = 0
    stride: int = 0
    fit: str = "crop"
    by_time: bool | None = None

    def read(self) -> Clip:
        """Reads the frames (f, h, w, 3), uint8; raises TavError as `read_frames` does."""
        chosen = {"start": self.start, "stride": self.stride, "by_time": self.by_time}
        return read_frames(self.clip, self.frames, size=self.size, fit=self.fit, **chosen, as_bytes=True)

    @property
    def width_and_height(self) -> list[int]:
        """The size as JSON holds it: [width, height]."""
        return list(self.size) if isinstance(self.size, (tuple, list)) else [self.size, self.size]

    def as_metadata(self) -> dict:
        """Its fields as JSON holds them, with the clip's file name instead of its path.

        Without `by_time`, of which a `Clip` tells what it came to.
        """
        return {
            "clip": self.clip.name,
            "frames": self.frames,
            "size": self.width_and_height,
            "start": self.start,
            "stride": self.stride,
            "fit": self.fit,
        }
