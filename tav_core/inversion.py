"""The noise that a clip came from, kept in a file for as long as everything that it depends on is the same."""

import hashlib
import json
import os
from dataclasses import dataclass

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .files import atomic_path

FORMAT = "tune-a-video/inversion/1"


@dataclass(frozen=True, eq=False)
class Inversion:
    """noise: what DDIM inversion ends at; reconstruction: clean latents sampled back from it; both (1, c, f, h, w)."""

    noise: Tensor
    reconstruction: Tensor

    def save(self, path: str | os.PathLike, key: str) -> None:
        """Writes one .safetensors file, whole or not at all, under an `inversion_key`."""
        tensors = {"noise": self.noise.contiguous().cpu(), "reconstruction": self.reconstruction.contiguous().cpu()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {"format": FORMAT, "key": key})

    @classmethod
    def load(cls, path: str | os.PathLike, key: str) -> "Inversion | None":
        """Reads what was saved under the same key; None where it is absent, of another key, or damaged."""
        if not os.path.isfile(path):
            return None
        try:
            with safe_open(path, framework="pt") as file:
                if file.metadata() != {"format": FORMAT, "key": key}:
                    return None
                return cls(file.get_tensor("noise"), file.get_tensor("reconstruction"))
        except SafetensorError:
            return None


def inversion_key(*tensors: Tensor, **settings) -> str:
    """Names an inversion by all that decides its result; sha256, hex. settings: anything JSON can hold."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
