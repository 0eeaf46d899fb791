"""Opens a .safetensors file in the original Stable Diffusion layout; infers its networks' configs from the tensors."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import TavError, brief, shown
from ..families import TEXT_ENCODER, UNET, VAE, family_of_tensors, heads_of
from .configs import check_network
from .networks import clip_names, count_of, diffusers_network, inferring, text_encoder
from .tokenizer import clip_tokenizer

Shapes = Mapping[str, tuple[int, ...]]
LATER_OPEN_CLIP = "conditioner.embedders.0.model."  # in SD-Turbo and other files of Stable Diffusion 2.x
# next to each 8-bit weight in ComfyUI's files, of 2024 and of today: the scale, and what only its own layers need
SCALES, OTHER_PARTS = ("scale_weight", "weight_scale"), ("scale_input", "input_scale", "comfy_quant", "scaled_fp8")
FP8 = ("float8_e4m3fn", "float8_e5m2")
OPEN_CLIP = TEXT_ENCODER + "model."  # Stable Diffusion 2.x; 1.x has `cond_stage_model.transformer.`


def open_single_file(path: Path, dtype: torch.dtype) -> dict:
    """Opens unet, vae, text_encoder, tokenizer and scheduler, on the CPU; rejects other files by their header alone."""
    try:
        with safe_open(path, framework="pt") as file:
            return _open(file, path.name, dtype)
    except SafetensorError as error:
        raise TavError(
            f"{path.name} is not a complete .safetensors file ({brief(error)}): download it again."
        ) from error


def _open(file: safe_open, name: str, dtype: torch.dtype) -> dict:
    stored = {_renamed(key): key for key in file.keys()}  # noqa: SIM118
    shapes = {key: tuple(file.get_slice(name).get_shape()) for key, name in stored.items()}
    family = family_of_tensors(shapes, name)
    for prefix, part in ((VAE, "VAE"), (TEXT_ENCODER, "text encoder")):
        if not any(key.startswith(prefix) for key in shapes):
            raise TavError(f"{name} has no {part}: choose a full checkpoint rather than a pruned one.")

    def tensors(prefix: str) -> dict[str, Tensor]:
        names = [key for key in stored if key.startswith(prefix) and not key.endswith(SCALES + OTHER_PARTS)]
        return {key: weight(key) for key in names}

    def weight(key: str) -> Tensor:
        layer = key.removesuffix("weight")
        if quantised := stored.get(f"{layer}comfy_quant"):
            _ensure_fp8(bytes(file.get_tensor(quantised).tolist()), name)
        scale = next((stored[layer + each] for each in SCALES if layer + each in stored), None)
        tensor = file.get_tensor(stored[key])
        tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor  # others stay, so that `fill` finds them
        return tensor if scale is None else tensor * file.get_tensor(scale).to(dtype)

    with inferring(name):
        config = check_network(unet_config(shapes, family), UNet2DConditionModel, f"The UNet of {name}")
        converted = convert_ldm_unet_checkpoint(tensors(UNET), config)
    unet = diffusers_network(UNet2DConditionModel, config, converted, f"The UNet of {name}")
    with inferring(name):
        config = check_network(vae_config(shapes), AutoencoderKL, f"The VAE of {name}")
        converted = convert_ldm_vae_checkpoint(tensors(VAE), config)
    vae = diffusers_network(AutoencoderKL, config, converted, f"The VAE of {name}")
    with inferring(name):
        text = _clip_tensors(tensors(TEXT_ENCODER))
        config = text_config(text, family)
    return {
        "unet": unet,
        "vae": vae,
        "text_encoder": text_encoder(config, text, f"The text encoder of {name}"),
        "tokenizer": clip_tokenizer("!" if family == "sd2" else "<|endoftext|>"),
        "scheduler": ddim_scheduler("v_prediction" if family == "sd2" and _predicts_v(unet) else "epsilon"),
    }


def _ensure_fp8(quantised: bytes, name: str) -> None:
    try:
        kind = json.loads(quantised)["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TavError(
            f"{name} is damaged: how its weights are quantised cannot be read; download it again."
        ) from error
    if kind not in FP8:
        raise TavError(
            f"{name} is quantised as {shown(kind)}, which only ComfyUI opens; choose a version in fp16 or fp8."
        )


def _renamed(key: str) -> str:
    return key.replace(LATER_OPEN_CLIP, OPEN_CLIP) if key.startswith(LATER_OPEN_CLIP) else key


def unet_config(shapes: Shapes, family: str) -> dict:
    """Infers the config of diffusers' UNet from the tensors `model.diffusion_model.*`; KeyError if one is missing."""
    levels = 1 + count_of(rf"^{UNET}input_blocks\.(\d+)\.0\.op\.weight$", shapes)
    blocks = count_of(rf"^{UNET}input_blocks\.(\d+)\.", shapes) // levels - 1
    first_of_level = [f"{UNET}input_blocks.{level * (blocks + 1) + 1}" for level in range(levels)]
    channels = [shapes[f"{block}.0.out_layers.3.weight"][0] for block in first_of_level]
    attends = [f"{block}.1.norm.weight" in shapes for block in first_of_level]
    return {
        "in_channels": shapes[f"{UNET}input_blocks.0.0.weight"][1],
        "out_channels": shapes[f"{UNET}out.2.weight"][0],
        "block_out_channels": channels,
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "layers_per_block": blocks,
        "cross_attention_dim": shapes[f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        "use_linear_projection": len(shapes[f"{UNET}middle_block.1.proj_in.weight"]) == 2,
        "attention_head_dim": heads_of(family, channels),
        "sample_size": 64,
    }


def vae_config(shapes: Shapes) -> dict:
    """Infers the config of diffusers' AutoencoderKL from `first_stage_model.*`; KeyError if a tensor is missing."""
    levels = count_of(rf"^{VAE}encoder\.down\.(\d+)\.", shapes)
    return {
        "in_channels": shapes[f"{VAE}encoder.conv_in.weight"][1],
        "out_channels": shapes[f"{VAE}decoder.conv_out.weight"][0],
        "latent_channels": shapes[f"{VAE}decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[f"{VAE}encoder.down.{i}.block.0.conv2.weight"][0] for i in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": count_of(rf"^{VAE}encoder\.down\.0\.block\.(\d+)\.", shapes),
        "scaling_factor": 0.18215,
        "sample_size": 512,
    }


def text_config(tensors: dict[str, Tensor], family: str) -> dict:
    """Infers the config of CLIP's text model from its tensors; CLIP-L and OpenCLIP-H both have heads of width 64."""
    vocabulary, width = tensors["embeddings.token_embedding.weight"].shape
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": tensors["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": count_of(r"^encoder\.layers\.(\d+)\.", tensors),
        "num_attention_heads": width // 64,
        "max_position_embeddings": tensors["embeddings.position_embedding.weight"].shape[0],
        "hidden_act": "gelu" if family == "sd2" else "quick_gelu",
    }


def ddim_scheduler(prediction_type: str) -> DDIMScheduler:
    """The schedule that Stable Diffusion 1.x and 2.x were trained with; files in the original layout lack it."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def _clip_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # SD 2.x conditions on OpenCLIP's penultimate layer, so diffusers' conversion drops the last of its 24. It reads the
    # width from a projection that pruned files lack.
    if OPEN_CLIP + "token_embedding.weight" in tensors:
        width = tensors[OPEN_CLIP + "token_embedding.weight"].shape[1]
        tensors = {OPEN_CLIP + "text_projection": torch.empty(width, 0)} | tensors
        tensors = convert_open_clip_checkpoint(None, tensors, prefix=OPEN_CLIP)
    return clip_names(tensors)


def _predicts_v(unet: UNet2DConditionModel) -> bool:
    # Files of SD 2.x do not say whether they predict noise or v; ComfyUI found that this bias has a larger std for v.
    bias = unet.up_blocks[-1].attentions[-1].transformer_blocks[0].norm1.bias
    return bias.float().std(unbiased=False).item() > 0.09
