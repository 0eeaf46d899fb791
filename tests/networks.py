"""Small real networks with seeded random weights."""

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel

from tav_core.world.vocabulary import write_tokenizer

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tiny_unet(seed: int = 0, **config) -> UNet2DConditionModel:
    """Two levels as in Stable Diffusion: attention on the first and in the middle."""
    torch.manual_seed(seed)
    tiny = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
    }
    return UNet2DConditionModel(**tiny | config).eval().requires_grad_(False)


def video(frames: int = 4, size: int = 8, batch: int = 1, seed: int = 1) -> torch.Tensor:
    """Random latents (b, 4, f, h, w)."""
    return torch.randn(batch, 4, frames, size, size, generator=torch.Generator().manual_seed(seed))


def text(*shape: int, seed: int = 2) -> torch.Tensor:
    """Random embeddings of a prompt; (1, 7, 32) where no shape is given."""
    return torch.randn(*(shape or (1, 7, 32)), generator=torch.Generator().manual_seed(seed))


def write_clip_model(folder: Path, seed: int = 0) -> str:
    """A CLIP model of random weights and its processor, as the hub holds them; returns the name to open it by."""
    size = len(write_tokenizer(folder))
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {"vocab_size": size, "max_position_embeddings": 77, "eos_token_id": size - 1, "bos_token_id": size - 2}
    pictures = {"image_size": 32, "patch_size": 8}
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=layers | words, vision_config=layers | pictures, projection_dim=24)
    CLIPModel(config).save_pretrained(folder)
    config = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "crop_size": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return str(folder)
