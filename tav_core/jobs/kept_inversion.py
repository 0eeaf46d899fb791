"""The noise that a clip came from, kept in a file for as long as everything that it depends on is the same."""

import os
from dataclasses import dataclass

from torch import Tensor

from ..errors import TavError
from ..files import read_tensors, write_tensors

FORMAT = "tune-a-video/inversion/1"


@dataclass(frozen=True, eq=False)
class Inversion:
    """noise: what DDIM inversion ends at; reconstruction: clean latents sampled back from it; both (1, c, f, h, w)."""

    noise: Tensor
    reconstruction: Tensor

    def save(self, path: str | os.PathLike, key: str) -> None:
        """Writes one .safetensors file, whole or not at all, under an `inversion_key`."""
        write_tensors(path, {"noise": self.noise, "reconstruction": self.reconstruction}, FORMAT, {"key": key})

    @classmethod
    def load(cls, path: str | os.PathLike, key: str) -> "Inversion | None":
        """Reads what was saved under the same key; None where it is absent, of another key, or damaged."""
        try:
            tensors, metadata = read_tensors(path, FORMAT)
        except TavError:
            return None
        return cls(tensors["noise"], tensors["reconstruction"]) if metadata.get("key") == key else None
