"""Small real networks with seeded random weights."""

import torch
from diffusers import UNet2DConditionModel

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
    """Random embeddings of a sentence; (1, 7, 32) where no shape is given."""
    return torch.randn(*(shape or (1, 7, 32)), generator=torch.Generator().manual_seed(seed))
