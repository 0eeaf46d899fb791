"""Builds networks from a config and loads their tensors strictly: all of them must be there and fit."""

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ..errors import TavError, brief, is_out_of_memory
from .configs import check, check_network


def diffusers_network(cls: type, config: Mapping, tensors: Mapping[str, Tensor | None], name: str) -> nn.Module:
    """Builds a diffusers network from `tensors`, in their dtype; raises TavError if one is missing or does not fit.

    name: begins the error message, as in "The UNet of model.safetensors".
    """
    return fill(empty_network(cls, config, name), tensors, name)


def empty_network(cls: type, config: Mapping, name: str) -> nn.Module:
    """Builds a diffusers network without memory for its weights; raises TavError if its config does not allow it."""
    settings = check_network(config, cls, name)
    return _built(lambda: cls.from_config(settings), name)


def text_encoder(config: Mapping, tensors: Mapping[str, Tensor], name: str) -> CLIPTextModel:
    """Builds CLIP's text model from `tensors`, named as by `clip_names`."""
    settings = check(config, CLIPTextModel, name)
    words = settings.get("vocab_size", 49408)
    # which only the pooled output depends on; CLIP has them at the end
    settings |= {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    network = _built(lambda: CLIPTextModel(CLIPTextConfig(**settings)), name)
    for module in network.modules():
        if getattr(module, "position_ids", None) is not None:  # in no file
            module.position_ids = torch.arange(module.position_ids.shape[-1])[None]
    prefix = "text_model." if hasattr(network, "text_model") else ""  # transformers 5.6 removed this level
    return fill(network, {prefix + key: tensor for key, tensor in tensors.items()}, name)


def _built(build: Callable[[], nn.Module], name: str) -> nn.Module:
    with torch.device("meta"):  # no time or memory for weights that are replaced at once
        try:
            return build()
        except Exception as error:  # settings that contradict each other fail in many ways
            if is_out_of_memory(error):
                raise
            raise TavError(
                f"The settings of {name[0].lower()}{name[1:]} do not go together ({brief(error)}): choose an "
                "intact checkpoint."
            ) from error


@contextmanager
def inferring(name: str) -> Iterator[None]:
    """Raises TavError where the names and shapes of a file's tensors show no config, or diffusers cannot rename them.

    The tensors of a file may have any name and any number of dimensions, and what reads them relies on those of the
    original.
    """
    try:
        yield
    except KeyError as missing:
        raise TavError(f"{name} lacks the tensor {missing}: choose an intact checkpoint.") from None
    except (IndexError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, (TavError, SafetensorError)) or is_out_of_memory(error):
            raise
        raise TavError(
            f"{name} is damaged: its tensors have other names or shapes than a network's ({brief(error)}); "
            "download it again."
        ) from error


def clip_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strips the prefixes before `embeddings.`, `encoder.` or `final_layer_norm.` from names of CLIP's text model.

    They differ between files and versions of transformers. position_ids, which are just 0..76, and weights that prompt
    embeddings do not use (text_projection, logit_scale) are left out.
    """
    found = {re.search(r"(?:^|\.)((?:embeddings|encoder|final_layer_norm)\..*)", key): key for key in tensors}
    return {match[1]: tensors[key] for match, key in found.items() if match and "position_ids" not in key}


def fill(network: nn.Module, tensors: Mapping[str, Tensor | None], name: str) -> nn.Module:
    """Loads tensors into a network, frozen, in evaluation mode; raises TavError if one is missing or does not fit."""
    # diffusers' conversions give None for a missing tensor
    tensors = {key: tensor for key, tensor in tensors.items() if tensor is not None}
    wanted = {key: tensor.shape for key, tensor in network.state_dict().items()}
    faults = {
        "missing": [key for key in wanted if key not in tensors],
        "misshapen": [key for key in wanted if key in tensors and tensors[key].shape != wanted[key]],
        "unknown": [key for key in tensors if key not in wanted],
    }
    named = {fault: brief(", ".join(keys[:3])) for fault, keys in faults.items()}
    found = [f"{len(keys)} {fault} tensors, such as {named[fault]}" for fault, keys in faults.items() if keys]
    if found:
        raise TavError(f"{name} is damaged or of another kind ({'; '.join(found)}): choose an intact checkpoint.")
    ensure_numbers({key: tensors[key] for key in wanted}, name)
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


def ensure_numbers(tensors: Mapping[str, Tensor], name: str) -> None:
    """Raises TavError for weights that are not finite real numbers, which would fail much later, and far from here."""
    for key, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise TavError(f"{name} is damaged: {key} holds {tensor.dtype} instead of weights; download it again.")
        total = tensor.sum(dtype=torch.float32) if tensor.itemsize > 1 else tensor.float().sum()
        if not total.isfinite():
            raise TavError(f"{name} is damaged: {key} holds NaN or infinite values; download it again.")


def count_of(pattern: str, names: Iterable[str]) -> int:
    """The number of distinct values that the group of `pattern` has in these names."""
    return len({match[1] for name in names if (match := re.search(pattern, name))})


def read_weights(folder: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Reads the weights of one part, whole or in shards, to the CPU; prefers full precision if the folder has both.

    dtype: by default as stored. A pickle is opened only if there is no .safetensors file.
    """
    names, shard = sorted(file.name for file in folder.iterdir() if file.is_file()), r"(-\d+-of-\d+)?"
    for suffix, read in ((".safetensors", _read_safetensors), (".bin", read_pickle)):
        for variant in ("", r"\.fp16", r"\.bf16"):
            weights = rf"((diffusion_)?pytorch_)?model{shard}{variant}{shard}{re.escape(suffix)}"
            if files := [name for name in names if re.fullmatch(weights, name)]:
                tensors = {key: tensor for name in files for key, tensor in read(folder / name).items()}
                # others stay as they are, so that `fill` finds them
                return {key: t.to(dtype) if t.is_floating_point() else t for key, t in tensors.items()}
    raise TavError(f"The folder {_label(folder)} has no .safetensors or .bin weights: download the folder again.")


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Opens a pickle of tensors with torch's weights-only loader, which does not run code in the pickle."""
    name = f"{_label(path.parent)}/{path.name}"
    if torch.__version__ < "2.6":  # CVE-2025-32434: until then a crafted file could run code
        raise TavError(
            f"{name} is a pickle, which torch {torch.__version__} cannot open safely: update torch to 2.6 or later, or "
            "download the .safetensors version."
        )
    ensure_stored(path, name)
    with path.open("rb") as file:
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle fails in many ways
            if is_out_of_memory(error):
                raise
            raise _refused(name, error) from None
    for wrapped in ("state_dict", "adapter"):  # as in files of training scripts and T2I-Adapters
        weights = weights.get(wrapped, weights) if isinstance(weights, dict) else weights
    named = weights.items() if isinstance(weights, dict) else ()
    tensors = {key: t for key, t in named if isinstance(key, str) and torch.is_tensor(t)}
    if not tensors:
        raise TavError(f"{name} is not a dict of tensors: download it again, or the .safetensors version.")
    if not all(t.layout == torch.strided and t.device.type == "cpu" and not t.is_quantized for t in tensors.values()):
        raise TavError(f"{name} holds tensors of a special kind: download the .safetensors version.")
    # a view may repeat the same numbers, which copying it writes out
    if sum(t.numel() * t.itemsize for t in tensors.values()) > 2 * path.stat().st_size:
        raise TavError(f"{name} is small, but unpacks to far more memory: download the .safetensors version.")
    return tensors


def ensure_stored(path: Path, name: str) -> None:
    """Raises TavError for a pickle in a compressed archive, of which 27 MB may become 6 GB; torch compresses none."""
    if zipfile.is_zipfile(path):
        # of other versions of the format, damage makes some; torch says what it cannot read
        with suppress(zipfile.BadZipFile, NotImplementedError), zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise TavError(f"{name} is compressed, as torch never saves: download the .safetensors version.")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads a single .safetensors file; raises TavError if it is damaged."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise TavError(
            f"{path.name} is not a complete .safetensors file ({brief(error)}): download it again."
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise TavError(
            f"The weights of {_label(path.parent)} are incomplete ({brief(error)}): download them again."
        ) from error


def _refused(name: str, error: Exception) -> TavError:
    """Our own error, because torch's message advises opening the file without that loader."""
    if foreign := re.search(r"GLOBAL (\S{1,80})", str(error)):
        return TavError(
            f"{name} contains more than weights: it uses {foreign[1]}, which could run any code, so it was not "
            "opened; download the .safetensors version."
        )
    return TavError(f"{name} is damaged, or not a pickle of weights: download it again, or the .safetensors version.")


def _label(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
