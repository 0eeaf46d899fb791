"""The inversion of a clip, kept in a file and reused while nothing it depends on has changed."""

import os
from dataclasses import dataclass

from torch import Tensor

from ..errors import TavError
from ..files import read_tensors, write_tensors

FORMAT = "tune-a-video/inversion/1"


@dataclass(frozen=True, eq=False)
class Inversion:
    """noise: the result of DDIM inversion; reconstruction: clean latents sampled from it; both (1, c, f, h, w)."""

    noise: Tensor
    reconstruction: Tensor

    def save(self, path: str | os.PathLike, key: str) -> None:
        """Writes a .safetensors file atomically, with an `inversion_key`."""
        write_tensors(path, {"noise": self.noise, "reconstruction": self.reconstruction}, FORMAT, {"key": key})

    @classmethod
    def load(cls, path: str | os.PathLike, key: str) -> "Inversion | None":
        """Reads an inversion saved with the same key; None if the file is missing, damaged, or has another key."""
        try:
            tensors, metadata = read_tensors(path, FORMAT)
        except TavError:
            return None
        return cls(tensors["noise"], tensors["reconstruction"]) if metadata.get("key") == key else None
