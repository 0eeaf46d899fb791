"""Writes Stable Diffusion checkpoints of random weights in the real file formats, to run without a download."""

import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from tav_core.checkpoints.networks import clip_names, diffusers_network, text_encoder
from tav_core.checkpoints.single_file import ddim_scheduler
from tav_core.checkpoints.tokenizer import clip_tokenizer
from tav_core.errors import TavError
from tav_core.families import TEXT_ENCODER, UNET, VAE
from tav_core.files import atomic_path

Tensors = dict[str, Tensor]

SD15_UNET = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
REDUCED_UNET = {
    "block_out_channels": [320, 640],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2,  # as Stable Diffusion has, by which ComfyUI counts where a T2I-Adapter's features go
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
REDUCED_SD2_UNET = REDUCED_UNET | {
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10],
    "use_linear_projection": True,
}
TINY_UNET = REDUCED_UNET | {
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2,
    "cross_attention_dim": 64,
    "layers_per_block": 1,
}
TINY_SD2_UNET = TINY_UNET | {
    "block_out_channels": [64, 128],
    "attention_head_dim": [1, 2],
    "use_linear_projection": True,
}
FULL_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
TINY_VAE = FULL_VAE | {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1}
CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
OPEN_CLIP_H = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,  # of 24, the last of which Stable Diffusion 2.x does not use
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
TINY_CLIP = CLIP_L | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1}

# The configs of UNet, VAE and text encoder. "tiny" is the smallest that the loader can open: it takes heads 64 wide in
# the text encoder, 8 heads in the UNet, and 32 groups in each normalisation.
SIZES = {
    "sd15": (SD15_UNET, FULL_VAE, CLIP_L),
    "reduced": (REDUCED_UNET, FULL_VAE, CLIP_L),
    "reduced-sd2": (REDUCED_SD2_UNET, FULL_VAE, OPEN_CLIP_H),
    "tiny": (TINY_UNET, TINY_VAE, TINY_CLIP),
    "tiny-sd2": (TINY_SD2_UNET, TINY_VAE, TINY_CLIP | {"hidden_act": "gelu"}),
}

# From diffusers' names to the original's, for what does not depend on the numbers of levels and blocks.
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE_PARTS = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_q": "mid.attn_1.q",
    "mid_block.attentions.0.to_k": "mid.attn_1.k",
    "mid_block.attentions.0.to_v": "mid.attn_1.v",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "down_blocks": "down",
    "up_blocks": "up",
    "resnets": "block",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
}
OPEN_CLIP_NAMES = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def write_random_checkpoint(
    path: str | os.PathLike,
    *,
    seed: int = 0,
    size: str = "reduced",
    layout: str = "single",
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes a checkpoint of one of SIZES; the same seed and size hold the same weights in either layout.

    `size` is "sd15" (2.1 GB in float16), "reduced" (0.6 GB), "reduced-sd2" (1.1 GB), "tiny" (9 MB) or "tiny-sd2".
    `layout` is "single" (one .safetensors file as Stable Diffusion is shared) or "diffusers" (a folder, which must not
    exist yet). Activations stay of order one through all networks.
    """
    path = Path(path)
    generator = torch.Generator().manual_seed(seed)
    tensors = [_draw(shapes, generator, dtype) for shapes in empty_tensors(size)]
    if layout == "single":
        with atomic_path(path) as temporary:
            save_file(original_layout(*tensors, size=size), temporary, metadata={"format": "pt"})
    elif path.exists():
        raise TavError(f"{path} exists already: remove it, or write the diffusers folder somewhere else.")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:  # the folder, too, is whole or not there
            _save_folder(*tensors, size=size, folder=Path(temporary, "whole"))
            os.replace(Path(temporary, "whole"), path)


def empty_tensors(size: str) -> tuple[Tensors, Tensors, Tensors]:
    """The tensors of UNet, VAE and text encoder under diffusers' names, without memory for their values."""
    unet, vae, text = SIZES[size]
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel.from_config(unet), AutoencoderKL.from_config(vae)
        text = CLIPTextModel(CLIPTextConfig(**text))
    return unet.state_dict(), vae.state_dict(), clip_names(text.state_dict())


def original_layout(unet: Tensors, vae: Tensors, text: Tensors, *, size: str) -> Tensors:
    """Renames all tensors to what Stable Diffusion's own training code calls them."""
    config = SIZES[size][0]
    text = _open_clip(text) if config.get("use_linear_projection") else _clip(text)
    return {
        **{UNET + original_unet_name(name, config): tensor for name, tensor in unet.items()},
        **{VAE + _vae_name(name): _as_convolution(name, tensor) for name, tensor in vae.items()},
        **{TEXT_ENCODER + name: tensor for name, tensor in text.items()},
    }


def original_unet_name(name: str, config: Mapping) -> str:
    if ".resnets." in name:
        name = _replaced(name, RESNET)
    if not (match := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)):
        return _replaced(name, UNET_ENDS)
    side, kind, rest, level, number = *match.group(1, 3, 5), int(match[2]), int(match[4])
    layers, attends = config["layers_per_block"], "CrossAttn" in config["up_block_types"][level]
    number = layers if kind.endswith("samplers") else number
    if side == "down":
        block, slot = f"input_blocks.{level * (layers + 1) + number + 1}", int(kind == "attentions")
        return f"{block}.{slot}.{rest.replace('conv.', 'op.') if kind == 'downsamplers' else rest}"
    slot = {"resnets": 0, "attentions": 1, "upsamplers": 1 + attends}[kind]
    return f"output_blocks.{level * (layers + 1) + number}.{slot}.{rest}"


def _vae_name(name: str) -> str:
    return re.sub(r"up\.(\d)\.", lambda match: f"up.{3 - int(match[1])}.", _replaced(name, VAE_PARTS))


def _as_convolution(name: str, tensor: Tensor) -> Tensor:
    return tensor[:, :, None, None] if "attentions" in name and tensor.ndim == 2 else tensor


def _clip(text: Tensors) -> Tensors:
    names = {f"transformer.text_model.{name}": tensor for name, tensor in text.items()}
    return names | {"transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}


def _open_clip(text: Tensors) -> Tensors:
    """Also with what its files hold and the prompt embedding does not use: a 24th block, and the projection."""
    used = {name: tensor for name, tensor in text.items() if "layers.22." in name}
    last = {name.replace("layers.22.", "layers.23."): tensor.clone() for name, tensor in used.items()}
    width = text["final_layer_norm.weight"]
    text = text | last | {"text_projection": torch.eye(len(width)).to(width)}
    names = {"model." + _replaced(name, OPEN_CLIP_NAMES): tensor for name, tensor in text.items()}
    for name in [name for name in names if ".self_attn.q_proj." in name]:
        query, key, value = (names.pop(name.replace("q_proj", which)) for which in ("q_proj", "k_proj", "v_proj"))
        names[name.replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat([query, key, value])
    return names


def _replaced(name: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        name = name.replace(old, new)
    return name


def _draw(empty: Tensors, generator: torch.Generator, dtype: torch.dtype) -> Tensors:
    def draw(name: str, shape: torch.Size) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            return noise / math.sqrt(math.prod(shape[1:]))  # what comes in with variance one goes out so
        # Biases small, yet not zero: a name mixed up then shows in the output.
        return 0.05 * noise + ("norm" in name and name.endswith("weight"))

    return {name: draw(name, tensor.shape).to(dtype) for name, tensor in empty.items()}


def _save_folder(unet: Tensors, vae: Tensors, text: Tensors, *, size: str, folder: Path) -> None:
    from diffusers import StableDiffusionPipeline  # slow to import, and needed for nothing else

    unet_config, vae_config, text_config = SIZES[size]
    sd2 = unet_config.get("use_linear_projection", False)
    StableDiffusionPipeline(
        unet=diffusers_network(UNet2DConditionModel, unet_config, unet, "The UNet"),
        vae=diffusers_network(AutoencoderKL, vae_config, vae, "The VAE"),
        text_encoder=text_encoder(text_config, text, "The text encoder"),
        tokenizer=clip_tokenizer("!" if sd2 else "<|endoftext|>"),
        scheduler=ddim_scheduler("epsilon"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
