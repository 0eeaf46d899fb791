"""The noise that a clip came from, kept in a file for as long as everything that it depends on is the same."""

import hashlib
import json
import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .errors import TavError
from .files import read_tensors, write_tensors

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
            tensors, facts = read_tensors(path, FORMAT)
        except TavError:
            return None
        return cls(tensors["noise"], tensors["reconstruction"]) if facts["key"] == key else None


def digest_of(network: nn.Module) -> str:
    """Tells a network's weights from others by a sample of each tensor; sha256, hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().flatten()[::1009].to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()


def inversion_key(*tensors: Tensor, **settings) -> str:
    """Names an inversion by all that decides its result; sha256, hex. settings: anything JSON can hold."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
