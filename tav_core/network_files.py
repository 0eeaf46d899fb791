"""The files of one network in a diffusers folder: its config, and its weights, .safetensors or (with care) a pickle."""

import json
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .errors import TavError
from .memory import is_out_of_memory


def read_config(folder: Path, name: str = "config.json") -> dict:
    """Reads the JSON that says how a part of a diffusers folder is built."""
    try:
        config = json.loads((folder / name).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no table")
        return config
    except (OSError, ValueError) as error:
        raise TavError(f"{_called(folder)}/{name} cannot be read ({error}): download the folder again.") from error


def read_weights(folder: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Reads the weights of one part, in full precision where the folder has both, whole or in shards, on the CPU.

    dtype: by default as they are stored. A pickle is opened only where there is no .safetensors.
    """
    names, shard = sorted(file.name for file in folder.iterdir()), r"(-\d+-of-\d+)?"
    for suffix, read in ((".safetensors", _read_safetensors), (".bin", read_pickle)):
        for variant in ("", r"\.fp16", r"\.bf16"):
            weights = rf"((diffusion_)?pytorch_)?model{shard}{variant}{shard}{re.escape(suffix)}"
            if files := [name for name in names if re.fullmatch(weights, name)]:
                return {key: tensor.to(dtype) for name in files for key, tensor in read(folder / name).items()}
    raise TavError(f"The folder {_called(folder)} holds no .safetensors or .bin weights: download the folder again.")


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Opens a .bin of tensors by torch's weights-only loader, which runs no code that a pickle may hold."""
    name = f"{_called(path.parent)}/{path.name}"
    if torch.__version__ < "2.6":  # CVE-2025-32434: until then a made-up file could trick that loader
        raise TavError(
            f"{name} is a pickle, which torch {torch.__version__} cannot open safely: update torch to 2.6 or later, or "
            "download the .safetensors version."
        )
    with path.open("rb") as file:
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle fails in a dozen ways
            if is_out_of_memory(error):
                raise
            raise _refused(name, error) from None
    for wrapped in ("state_dict", "adapter"):  # as training scripts and T2I-Adapters have it
        weights = weights.get(wrapped, weights) if isinstance(weights, dict) else weights
    tensors = {key: t for key, t in weights.items() if torch.is_tensor(t)} if isinstance(weights, dict) else {}
    if not tensors:
        raise TavError(f"{name} holds no table of tensors: download it again, or the .safetensors version.")
    return tensors


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads a single .safetensors file; a TavError where it is not whole."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise TavError(f"{path.name} is no whole .safetensors file ({error}): download it again.") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise TavError(
            f"The weights of {_called(path.parent)} are not whole ({error}): download them again."
        ) from error


def _refused(name: str, error: Exception) -> TavError:
    """In our words, for torch's own message advises to open the file without that loader."""
    if foreign := re.search(r"GLOBAL (\S{1,80})", str(error)):
        return TavError(
            f"{name} holds more than weights: it asks for {foreign[1]}, which could run any code, so it was not "
            "opened; download the .safetensors version."
        )
    return TavError(f"{name} is damaged, or no pickle of weights: download it again, or the .safetensors version.")


def _called(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
