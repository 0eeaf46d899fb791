"""Which frames of which clip a job works on."""

from dataclasses import dataclass
from pathlib import Path

from ..video.read import Clip, read_frames


@dataclass(frozen=True)
class Selection:
    """Which frames of which clip, and how large; the fields are those of `read_frames`."""

    clip: Path
    frames: int = 24
    size: int | tuple[int, int] = 512
    start: int = 0
    stride: int = 0
    fit: str = "crop"

    def read(self) -> Clip:
        """Reads the chosen frames (f, h, w, 3); TavError as `read_frames` raises."""
        return read_frames(self.clip, self.frames, size=self.size, start=self.start, stride=self.stride, fit=self.fit)

    @property
    def width_and_height(self) -> list[int]:
        """The size as JSON holds it: [width, height]."""
        return list(self.size) if isinstance(self.size, (tuple, list)) else [self.size, self.size]

    def as_metadata(self) -> dict:
        """All of it except the clip's folder, as JSON holds it."""
        return {
            "clip": self.clip.name,
            "frames": self.frames,
            "size": self.width_and_height,
            "start": self.start,
            "stride": self.stride,
            "fit": self.fit,
        }
