"""The miniature's UNet and text encoder, trained together on captioned images."""

import functools
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .loop import SEED, Training

UNET = {
    "sample_size": 16,
    "block_out_channels": (64, 128),
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "layers_per_block": 1,
    "cross_attention_dim": 96,
    "attention_head_dim": 4,  # in diffusers, the number of heads
    "norm_num_groups": 8,  # of 8 and 16 channels, about as many as in Stable Diffusion
}
TEXT = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}
DDIM = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def networks(tokenizer: CLIPTokenizer, device: str) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    torch.manual_seed(SEED)
    unet = UNet2DConditionModel(**UNET)
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **marks, **TEXT))
    return unet.to(device), text.to(device)


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    return torch.stack([_token_ids(tokenizer, caption) for caption in captions])


@functools.lru_cache(maxsize=100_000)
def _token_ids(tokenizer: CLIPTokenizer, caption: str) -> Tensor:
    return tokenizer(caption, padding="max_length", truncation=True, return_tensors="pt").input_ids[0]


def caption_for(caption: str, generator: torch.Generator) -> str:
    """The caption, or sometimes none, one without its shapes' verb, or one with a meaningless word, as users write."""
    chance = torch.rand((), generator=generator).item()
    if chance < 0.12:
        return ""
    if chance < 0.2:
        return re.sub(r" (is|are) moving", "", caption)
    if chance < 0.24:
        letters = "".join(chr(97 + int(n)) for n in torch.randint(26, (5,), generator=generator))
        return caption.replace(" moving", f" {letters}")
    return caption


def noisy_batch(scheduler, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, the noise and the timesteps, on the latents' device."""
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    timesteps = torch.randint(1000, (len(latents),), generator=generator).to(latents.device)
    return scheduler.add_noise(latents.float(), noise, timesteps), noise, timesteps


def noise_loss(
    unet, text, noisy: Tensor, noise: Tensor, timesteps: Tensor, tokens: Tensor, residuals_of=None
) -> Tensor:
    """residuals_of: from noisy latents, timesteps and text embeddings to a control network's residual arguments."""
    states = text(tokens).last_hidden_state
    residuals = residuals_of(noisy, timesteps, states) if residuals_of else {}
    return F.mse_loss(unet(noisy, timesteps, states, **residuals).sample, noise)


def train_unet(
    work: Path,
    tokenizer,
    latents: Tensor,
    captions: list[str],
    steps: int,
    batch: int,
    device: str,
) -> nn.ModuleDict:
    unet, text = networks(tokenizer, device)
    scheduler, latents = DDIMScheduler(**DDIM), latents.to(device)
    training = Training(work / "unet.pt", {"unet": unet, "text": text}, steps, rate=1.5e-3)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        tokens = token_ids(tokenizer, [caption_for(captions[i], generator) for i in chosen.tolist()]).to(device)
        return *noisy_batch(scheduler, latents[chosen.to(device)], generator), tokens

    return training.run(draw, lambda *batch: noise_loss(unet, text, *batch))


@torch.no_grad()
def held_out_loss(trained: nn.ModuleDict, tokenizer, latents: Tensor, captions: list[str], device: str) -> float:
    scheduler, generator, losses = DDIMScheduler(**DDIM), torch.Generator().manual_seed(SEED), []
    for part in torch.arange(len(latents)).split(64):
        tokens = token_ids(tokenizer, [captions[i] for i in part.tolist()]).to(device)
        batch = noisy_batch(scheduler, latents[part].to(device), generator)
        losses.append(noise_loss(trained["unet"], trained["text"], *batch, tokens).item())
    return sum(losses) / len(losses)
