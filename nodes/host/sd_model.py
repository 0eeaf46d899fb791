"""What a MODEL is: its family, where its blocks are, and diffusers' names for its parts."""

from pathlib import Path
from typing import NamedTuple

import torch
from comfy import utils
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...tav_core.addition import block_with
from ...tav_core.errors import TavError
from ...tav_core.families import SUPPORTED, family_of_config

UNET = "diffusion_model."
HOST_PLACES = {"transformer": "attn1.to_q", "resnet": "out_layers.3", "input": ""}
"""tav_core's PLACES, in the host's names."""
HOST_LAYERS = {"": "", "conv1": "in_layers.2", "conv2": "out_layers.3"}
"""tav_core's LAYERS, in the host's names."""


def unet_config(patcher: ModelPatcher) -> dict:
    # safe: the host builds its own key maps for LoRAs from it
    return patcher.model.model_config.unet_config


def compute_dtype(patcher: ModelPatcher) -> torch.dtype:
    """The dtype the host computes in, which may differ from the one it stores."""
    # safe: as the host's get_dtype_inference, which ComfyUI 0.3.64 lacks; ModelComputeDtype patches manual_cast_dtype
    return patcher.get_model_object("manual_cast_dtype") or patcher.model.get_dtype()


def family_of(patcher: ModelPatcher) -> str:
    """The family, "sd1" or "sd2"; for any other MODEL, raises a TavError that names it."""
    network, config = patcher.model.diffusion_model, unet_config(patcher)
    if not isinstance(network, UNetModel) or config.get("use_temporal_attention") or config.get("dims", 2) != 2:
        raise TavError(
            f"This MODEL is {type(patcher.model).__name__}, but Tune-A-Video needs {SUPPORTED}; load a full checkpoint "
            "of one of these."
        )
    fields = {
        "in_channels": config["in_channels"],
        "cross_attention_dim": config.get("context_dim"),
        "use_linear_projection": config.get("use_linear_in_transformer"),
        "num_class_embeds": config.get("num_classes"),
    }
    return family_of_config(fields, "This MODEL")


def file_of(patcher: ModelPatcher) -> str | None:
    """The name of the file that the MODEL was loaded from, if the host knows it; ComfyUI 0.3.64 does not."""
    # safe: the host itself reloads the MODEL with it for another GPU
    _, arguments, *_ = getattr(patcher, "cached_patcher_init", None) or (None, ())
    return Path(arguments[0]).name if arguments and isinstance(arguments[0], str) else None


def host_names(patcher: ModelPatcher) -> dict[str, str]:
    """diffusers' names of the UNet's tensors -> the MODEL's names, for those it has."""
    weights = patcher.model.diffusion_model.state_dict()
    # safe: the host's map for LoRAs with diffusers' names; it also lists tensors that no model has, and label_emb as
    # two: class_embedding takes the host's `y` as it is, while add_embedding would embed the sizes in it once more
    names = utils.unet_to_diffusers(unet_config(patcher))
    return {
        theirs: UNET + ours
        for theirs, ours in names.items()
        if ours in weights and not theirs.startswith("add_embedding.")
    }


class Block(NamedTuple):
    """A block of the network. channels: of its output. heads: of its attention; 1 if it has none."""

    channels: int
    heads: int


def block_paths(patcher: ModelPatcher, place: str) -> dict[str, str]:
    """The blocks of a kind (of tav_core's PLACES): their paths in diffusers -> their paths in the MODEL's UNet."""
    layer = HOST_PLACES[place]
    end = f".{layer}.weight" if layer else ".weight"
    return {
        path: ours.removeprefix(UNET).removesuffix(end)
        for theirs, ours in host_names(patcher).items()
        if (path := block_with(theirs, place))
    }


def blocks_of(patcher: ModelPatcher, place: str) -> dict[str, Block]:
    """The blocks of a kind, by diffusers' paths."""
    modules, layer = modules_by_path(patcher.model.diffusion_model), HOST_PLACES[place]
    blocks = {}
    for theirs, ours in block_paths(patcher, place).items():
        heads = getattr(modules[ours], "n_heads", 1)
        blocks[theirs] = Block(len(modules[ours].get_submodule(layer).weight), heads)
    return blocks


def modules_by_path(unet: UNetModel) -> dict[str, nn.Module]:
    """The UNet's modules by path, without the prefix that torch.compile adds."""
    return {name.replace("_orig_mod.", ""): module for name, module in unet.named_modules()}


def residual_norms(unet: UNetModel) -> list[nn.GroupNorm]:
    """The GroupNorms of the residual blocks and of the output; those inside transformers stay per frame."""
    inside = {id(norm) for m in unet.modules() if isinstance(m, SpatialTransformer) for norm in m.modules()}
    return [norm for norm in unet.modules() if isinstance(norm, nn.GroupNorm) and id(norm) not in inside]


def transformer_places(patcher: ModelPatcher) -> dict[str, tuple[str, int, int]]:
    """Each transformer block, by its path in diffusers: (kind of block, number, number of the transformer in it)."""
    kinds = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}
    places = {}
    for theirs, ours in block_paths(patcher, "transformer").items():
        kind, number, *_, index = ours.split(".")
        # safe: the names in openaimodel.py; the host counts the middle block as 0
        places[theirs] = kinds[kind], 0 if kind == "middle_block" else int(number), int(index)
    return places
