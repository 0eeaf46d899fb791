"""The inversion of a clip, kept in a file and reused while nothing it depends on has changed."""

import os
from dataclasses import dataclass

from torch import Tensor

from ..errors import TavError
from ..files import read_tensors, without_numbers, write_tensors

FORMAT = "tune-a-video/inversion/2"


@dataclass(frozen=True, eq=False)
class Inversion:
    """trajectory: of DDIM inversion, (steps + 1, 1, c, f, h, w), clean latents first; reconstruction: clean latents
    sampled from its end, (1, c, f, h, w)."""

    trajectory: Tensor
    reconstruction: Tensor

    def save(self, path: str | os.PathLike, key: str) -> None:
        """Writes a .safetensors file atomically, with an `inversion_key`."""
        tensors = {"trajectory": self.trajectory, "reconstruction": self.reconstruction}
        write_tensors(path, tensors, FORMAT, {"key": key})

    @classmethod
    def load(cls, path: str | os.PathLike, key: str) -> "Inversion | None":
        """Reads an inversion saved with the same key; None if the file is missing, damaged, or has another key."""
        try:
            tensors, metadata = read_tensors(path, FORMAT)
        except TavError:
            return None
        trajectory, reconstruction = tensors.get("trajectory"), tensors.get("reconstruction")
        intact = (
            trajectory is not None
            and reconstruction is not None
            and reconstruction.ndim == 5
            and trajectory.shape[1:] == reconstruction.shape
            and len(trajectory) > 1
            and not without_numbers(tensors)
        )
        return cls(trajectory, reconstruction) if intact and metadata.get("key") == key else None
