"""Opens ControlNets and T2I-Adapters: a diffusers folder, or a file with diffusers' or the original tensor names."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import ControlNetModel, T2IAdapter
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from torch import Tensor

from ..errors import TavError
from ..families import family_of_addition, heads_of
from .configs import read_config
from .networks import count_of, diffusers_network, inferring, read_pickle, read_safetensors, read_weights

ORIGINAL = "control_model."  # prefix in files that hold the ControlNet together with Stable Diffusion
UNSHUFFLED = 8  # a T2I-Adapter for Stable Diffusion 1.x or 2.x starts by folding 8 x 8 pixels into channels


def open_controlnet(path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> ControlNetModel:
    """Opens a ControlNet, frozen, on the CPU; raises TavError for any other file or folder, saying what it is."""
    path, (tensors, config) = Path(path), _read(Path(path))
    if prefixed := {key.removeprefix(ORIGINAL): t for key, t in tensors.items() if key.startswith(ORIGINAL)}:
        tensors = prefixed
    for mark, kind in {
        "lora_controlnet": "a Control-LoRA",
        "difference": "a ControlNet stored as a difference",
    }.items():
        if mark in tensors:
            raise TavError(f"{path.name} is {kind}, which only ComfyUI can open: choose a full ControlNet.")
    if not {"input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight"} & tensors.keys():
        raise TavError(f"{path.name} is not a ControlNet: choose one for Stable Diffusion 1.x or 2.x.")
    family = family_of_addition({key: tuple(tensor.shape) for key, tensor in tensors.items()}, path.name, "ControlNet")
    if config is None:
        levels = 1 + count_of(r"^input_blocks\.(\d+)\.0\.op\.", tensors)
        layers = count_of(r"^input_blocks\.(\d+)\.", tensors) // levels - 1
        with inferring(path.name):
            tensors = convert_controlnet_checkpoint(tensors, {"layers_per_block": layers})
            tensors = {key: tensor for key, tensor in tensors.items() if tensor is not None}
            config = controlnet_config(tensors, family)
        # the tensors do not show it, so the file name decides, as in ComfyUI
        config["global_pool_conditions"] = path.stem.endswith(("_shuffle", "_shuffle_fp16"))
    return diffusers_network(ControlNetModel, config, _in(dtype, tensors), f"The ControlNet {path.name}")


def open_t2i_adapter(path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> T2IAdapter:
    """Opens a T2I-Adapter, frozen, on the CPU; raises TavError for any other file or folder, saying what it is."""
    path, (tensors, config) = Path(path), _read(Path(path))
    tensors = {f"adapter.{name}": tensor for name, tensor in _adapter_names(tensors).items()}
    if not {"adapter.body.0.resnets.0.block1.weight", "adapter.body.0.in_conv.weight"} & tensors.keys():
        raise TavError(f"{path.name} is not a T2I-Adapter: choose one for Stable Diffusion 1.x.")
    if config is None:
        with inferring(path.name):
            config = adapter_config(tensors)
    if config.get("adapter_type") == "full_adapter_xl" or config.get("downscale_factor", UNSHUFFLED) == 2 * UNSHUFFLED:
        raise TavError(
            f"{path.name} is a T2I-Adapter for Stable Diffusion XL: choose one made for Stable Diffusion 1.x or 2.x."
        )
    return diffusers_network(T2IAdapter, config, _in(dtype, tensors), f"The T2I-Adapter {path.name}")


def controlnet_config(tensors: Mapping[str, Tensor], family: str | None) -> dict:
    """Infers the config of diffusers' ControlNetModel from its tensors, with diffusers' names."""
    levels = count_of(r"^down_blocks\.(\d+)\.", tensors)
    channels = [tensors[f"down_blocks.{level}.resnets.0.conv2.weight"].shape[0] for level in range(levels)]
    attends = [f"down_blocks.{level}.attentions.0.norm.weight" in tensors for level in range(levels)]
    embedding = "controlnet_cond_embedding"
    hints = [f"{embedding}.conv_in.weight"] + [
        f"{embedding}.blocks.{number}.weight"
        for number in range(1, count_of(rf"^{embedding}\.blocks\.(\d+)\.", tensors), 2)
    ]
    return {
        "in_channels": tensors["conv_in.weight"].shape[1],
        "conditioning_channels": tensors[hints[0]].shape[1],
        "block_out_channels": channels,
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "layers_per_block": count_of(r"^down_blocks\.0\.resnets\.(\d+)\.", tensors),
        "cross_attention_dim": tensors["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        "use_linear_projection": tensors["mid_block.attentions.0.proj_in.weight"].ndim == 2,
        "attention_head_dim": heads_of(family, channels),
        "conditioning_embedding_out_channels": [tensors[name].shape[0] for name in hints],
    }


def adapter_config(tensors: Mapping[str, Tensor]) -> dict:
    """Infers the config of diffusers' T2IAdapter from its tensors, with diffusers' names."""
    levels = count_of(r"^adapter\.body\.(\d+)\.", tensors)
    light = "adapter.body.0.out_conv.weight" in tensors
    first = tensors["adapter.body.0.in_conv.weight" if light else "adapter.conv_in.weight"].shape[1]
    last = "out_conv" if light else "resnets.0.block2"
    channels = [tensors[f"adapter.body.{level}.{last}.weight"].shape[0] for level in range(levels)]
    unshuffled = 2 * UNSHUFFLED if first in (256, 768) else UNSHUFFLED  # grey or coloured, for SDXL
    return {
        "in_channels": first // unshuffled**2,
        "channels": channels[:-1] if light else channels,  # diffusers repeats the last level of a light adapter
        "num_res_blocks": count_of(r"^adapter\.body\.0\.resnets\.(\d+)\.", tensors),
        "downscale_factor": unshuffled,
        "adapter_type": "light_adapter" if light else "full_adapter",
    }


def _adapter_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Diffusers' names, without `adapter.`; the original numbers residual blocks across levels, two per level."""
    tensors = {name.removeprefix("adapter."): tensor for name, tensor in tensors.items()}
    if "body.0.block1.weight" in tensors:

        def renamed(match: re.Match) -> str:
            number, part = int(match[1]), match[2]
            return f"body.{number // 2}." + ("in_conv" if part == "in_conv" else f"resnets.{number % 2}.{part}")

        return {re.sub(r"^body\.(\d)\.(in_conv|block[12])", renamed, name): tensor for name, tensor in tensors.items()}
    return {re.sub(r"^(body\.\d)\.body\.", r"\1.resnets.", name): tensor for name, tensor in tensors.items()}


def _read(path: Path) -> tuple[dict[str, Tensor], dict | None]:
    """Reads the tensors of a file, or the tensors and config of a folder."""
    if path.is_dir():
        return read_weights(path), read_config(path)
    if not path.is_file():
        raise TavError(f"There is no file or folder {path}: give a ControlNet or a T2I-Adapter.")
    if path.suffix.lower() != ".safetensors":
        return read_pickle(path), None
    return read_safetensors(path), None


def _in(dtype: torch.dtype, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
