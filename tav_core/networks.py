"""Networks built from a config and filled with given tensors: with every one of them, or not at all."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from .errors import TavError


def diffusers_network(cls: type, config: Mapping, tensors: dict[str, Tensor], name: str) -> nn.Module:
    """Builds a diffusers network over `tensors`, which keep their dtype; a TavError if one lacks or does not fit.

    `name` begins the error's sentence, as in "The UNet of model.safetensors".
    """
    with torch.device("meta"):  # no time and memory for weights that are replaced at once
        network = cls.from_config(config)
    return fill(network, tensors, name)


def text_encoder(config: CLIPTextConfig, tensors: dict[str, Tensor], name: str) -> CLIPTextModel:
    """Builds CLIP's text model over `tensors`, named as by `clip_names`."""
    network = CLIPTextModel(config)  # not on meta: its position_ids are in no file
    prefix = "text_model." if hasattr(network, "text_model") else ""  # transformers 5.6 took this level away
    return fill(network, {prefix + key: tensor for key, tensor in tensors.items()}, name)


def clip_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names the weights of CLIP's text model from `embeddings.`, `encoder.` or `final_layer_norm.` on.

    What stands before differs between files and versions of transformers; position_ids, a mere 0..76, and what the
    prompt embedding does not use (text_projection, logit_scale) are left out.
    """
    found = {re.search(r"(?:^|\.)((?:embeddings|encoder|final_layer_norm)\..*)", key): key for key in tensors}
    return {match[1]: tensors[key] for match, key in found.items() if match and "position_ids" not in key}


def fill(network: nn.Module, tensors: Mapping[str, Tensor | None], name: str) -> nn.Module:
    """Gives a network these tensors, frozen and in evaluation mode; a TavError if one lacks or does not fit."""
    tensors = {
        key: tensor for key, tensor in tensors.items() if tensor is not None
    }  # diffusers' sign for a missing one
    wanted = {key: tensor.shape for key, tensor in network.state_dict().items()}
    faults = {
        "missing": [key for key in wanted if key not in tensors],
        "misshapen": [key for key in wanted if key in tensors and tensors[key].shape != wanted[key]],
        "unknown": [key for key in tensors if key not in wanted],
    }
    told = [f"{fault} tensors: {len(keys)}, as {', '.join(keys[:3])}" for fault, keys in faults.items() if keys]
    if told:
        raise TavError(f"{name} is damaged or of another kind ({'; '.join(told)}): choose an intact checkpoint.")
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


def count_of(pattern: str, names: Iterable[str]) -> int:
    """How many different numbers stand where `pattern` has its group, in tensors' names."""
    return len({match[1] for name in names if (match := re.search(pattern, name))})
