"""The miniature's UNet and text encoder, trained together on captioned images."""

import functools
import re
import string
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tav_core.checkpoints.checkpoint import load_checkpoint

from .loop import SEED, Length, Training

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


LOSSES = {0: 0.4, 100: 0.207, 300: 0.0909, 500: 0.0496, 700: 0.0235, 900: 0.0071, 999: 0.003}
"""What a trained network loses at these timesteps."""


def networks(
    tokenizer: CLIPTokenizer, device: str, start: Path | None = None
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Random ones, or those of the miniature `start`, in float32."""
    if start:
        checkpoint = load_checkpoint(start)
        unet, text = checkpoint.unet, checkpoint.text_encoder
    else:
        torch.manual_seed(SEED)
        unet = UNet2DConditionModel(**UNET)
        marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **marks, **TEXT))
    return unet.to(device).train().requires_grad_(), text.to(device).train().requires_grad_()


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """The tokens of each caption (n, 77), int32."""
    distinct = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    tokens = tokenizer([*distinct], padding="max_length", truncation=True, return_tensors="pt").input_ids.int()
    return tokens[[distinct[caption] for caption in captions]]


class Captions:
    """Tokens of captions, kept on the device, and sometimes those of another caption for the same image.

    The others are none at all, one without its shapes' verb, or one with a meaningless word, as users write.
    """

    def __init__(self, tokenizer: CLIPTokenizer, captions: list[str], device: str):
        letters = np.random.default_rng(SEED).choice([*string.ascii_lowercase], (len(captions), 5))
        words = [
            caption.replace(" moving", f" {''.join(five)}") for caption, five in zip(captions, letters, strict=True)
        ]
        verbless = [re.sub(r" (is|are) moving", "", caption) for caption in captions]
        self.kinds = torch.stack(
            [token_ids(tokenizer, each).to(device) for each in (captions, verbless, words, [""] * len(captions))]
        )

    def draw(self, chosen: Tensor, generator: torch.Generator, ends: tuple[float, ...] = (0.76, 0.84, 0.88)) -> Tensor:
        """Tokens (n, 77) for the images `chosen`; ends: where the chances of all but the last end."""
        chances = torch.rand(len(chosen), generator=generator, device=chosen.device)
        return self.kinds[sum((chances >= end).long() for end in ends), chosen]


def noisy_batch(scheduler, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, the noise and the timesteps, on the latents' device."""
    noise = torch.randn(latents.shape, generator=generator, device=latents.device)
    timesteps = torch.randint(1000, (len(latents),), generator=generator, device=latents.device)
    return scheduler.add_noise(latents.float(), noise, timesteps), noise, timesteps


def noise_loss(
    unet, text, noisy: Tensor, noise: Tensor, timesteps: Tensor, tokens: Tensor, residuals_of=None, weights=None
) -> Tensor:
    """weights: of the samples, all 1 by default.

    residuals_of: from noisy latents, timesteps and text embeddings to a control network's residual arguments.
    """
    states = text(tokens).last_hidden_state
    residuals = residuals_of(noisy, timesteps, states) if residuals_of else {}
    error = F.mse_loss(unet(noisy, timesteps, states, **residuals).sample, noise, reduction="none").mean(dim=(1, 2, 3))
    return error.mean() if weights is None else (weights * error).mean()


def balance(device: str) -> Tensor:
    """Weights (1000,) of the timesteps, of mean 1, with which each counts as much as any other.

    Unweighted, the last noise counts for nearly all, which is texture; things get their places and outlines from the
    first. Karras et al. 2024 (arXiv 2312.02696) learn such weights.
    """
    weights = 1 / torch.from_numpy(np.interp(np.arange(1000), [*LOSSES], [*LOSSES.values()])).float()
    return (weights / weights.mean()).to(device)


def train_unet(
    work: Path,
    tokenizer,
    latents: Tensor,
    captions: list[str],
    length: Length,
    batch: int,
    device: str,
    *,
    start: Path | None = None,
    compiled: bool,
) -> nn.ModuleDict:
    """start: a miniature to go on from."""
    unet, text = networks(tokenizer, device, start)
    scheduler, latents = DDIMScheduler(**DDIM), latents.to(device)
    words = functools.cache(lambda: Captions(tokenizer, captions, device))  # takes seconds, for nothing if all is done
    rate, weights = 1e-3 if start else 1.5e-3, balance(device)
    training = Training(work / "unet.pt", {"unet": unet, "text": text}, length, rate, muon=True, compiled=compiled)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        chosen = torch.randint(len(latents), (batch,), generator=generator, device=latents.device)
        return *noisy_batch(scheduler, latents[chosen], generator), words().draw(chosen, generator)

    def loss_of(noisy: Tensor, noise: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        return noise_loss(unet, text, noisy, noise, timesteps, tokens, weights=weights[timesteps])

    return training.run(draw, loss_of)


@torch.no_grad()
def held_out_loss(trained: nn.ModuleDict, tokenizer, latents: Tensor, captions: list[str], device: str) -> float:
    scheduler, generator, losses = DDIMScheduler(**DDIM), torch.Generator(device).manual_seed(SEED), []
    for part in torch.arange(len(latents)).split(64):
        tokens = token_ids(tokenizer, [captions[i] for i in part.tolist()]).to(device)
        batch = noisy_batch(scheduler, latents[part].to(device), generator)
        losses.append(noise_loss(trained["unet"], trained["text"], *batch, tokens).item())
    return sum(losses) / len(losses)
