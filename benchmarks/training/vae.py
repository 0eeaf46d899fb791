"""The miniature's VAE, of factor 8 with 4 channels, as Stable Diffusion's."""

import copy
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from .images import pixels, save
from .loop import SEED, Training

SCALE = 0.18215  # Stable Diffusion's own, which hosts assume
VAE = {
    "block_out_channels": (32, 32, 64, 96),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,  # of 4 channels: in groups of one, no image's mean colour would pass
    "sample_size": 128,
    "scaling_factor": SCALE,
}


def train_vae(work: Path, images: Tensor, steps: int, whole_steps: int, batch: int, device: str) -> AutoencoderKL:
    """Trains on crops of 64 pixels, which cost a quarter, and then, in a second cycle, on `batch` whole images a step.

    images: uint8; kept on the device, if that is a GPU.
    """
    torch.manual_seed(SEED)
    vae = AutoencoderKL(**VAE)
    let_colours_pass(vae)
    vae, images = vae.to(device), images.to(device)

    def draw(whole: bool, generator: torch.Generator) -> tuple[Tensor, ...]:
        chosen = torch.randint(len(images), (batch if whole else 2 * batch,), generator=generator).to(device)
        top, left = (8 * number for number in torch.randint(9, (2,), generator=generator).tolist())
        window = slice(None) if whole else slice(top, top + 64), slice(None) if whole else slice(left, left + 64)
        shown = pixels(images[chosen][:, :, window[0], window[1]], device)
        noise = torch.randn(
            len(shown), VAE["latent_channels"], *(side // 8 for side in shown.shape[2:]), generator=generator
        )
        return shown, noise.to(device)

    def loss_of(shown: Tensor, noise: Tensor) -> Tensor:
        posterior = vae.encode(shown).latent_dist
        error = vae.decode(posterior.mean + posterior.std * noise).sample - shown
        return (
            error.square().mean() + 0.1 * error.abs().mean() + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel()
        )

    crops = Training(work / "vae.pt", {"vae": vae}, steps, rate=2e-3, decay=0.995)
    trained = crops.run(lambda step, generator: draw(step >= 0.9 * steps, generator), loss_of)
    vae.load_state_dict(trained["vae"].state_dict())
    whole = Training(work / "vae-whole.pt", {"vae": vae}, whole_steps, rate=1e-3, decay=0.995)
    return whole.run(lambda _, generator: draw(True, generator), loss_of)["vae"]


@torch.no_grad()
def let_colours_pass(vae: AutoencoderKL) -> None:
    """Initialises residual blocks to add nothing, and what is between them to pass its channels on, with little noise.

    Otherwise training lingers for a thousand steps where latents carry the brightness only.
    """
    blur = torch.tensor((1.0, 2.0, 1.0)) / 4
    for name, module in vae.named_modules():
        if name.endswith((".conv2", ".to_out.0")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif name.endswith(("downsamplers.0.conv", "upsamplers.0.conv")):
            module.weight.mul_(0.1)[range(len(module.weight)), range(len(module.weight))] += blur[:, None] * blur
        elif name.endswith("conv_shortcut"):
            kept = min(module.weight.shape[:2])
            module.weight.mul_(0.5)[range(kept), range(kept)] += 1
    nn.init.constant_(vae.quant_conv.bias[VAE["latent_channels"] :], -5.0)


@torch.no_grad()
def absorb_scale(vae: AutoencoderKL, images: Tensor, device: str) -> None:
    """Adjusts the 1x1 convolutions around the latents so that, scaled, each channel has mean 0 and deviation 1."""
    means = torch.cat([vae.encode(pixels(part, device)).latent_dist.mean for part in images[:512].split(64)])
    mean, std = means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3))
    out, back, gain = vae.quant_conv, vae.post_quant_conv, 1 / (SCALE * std)
    back.bias += (back.weight[:, :, 0, 0] * mean).sum(dim=1)
    back.weight *= (1 / gain)[None, :, None, None]
    out.bias[:4] = (out.bias[:4] - mean) * gain
    out.weight[:4] *= gain[:, None, None, None]
    out.bias[4:] += 2 * gain.log()


@torch.no_grad()
def encode(work: Path, name: str, vae: AutoencoderKL, images: Tensor, device: str) -> Tensor:
    """Scaled latents (n, 4, 16, 16), the mean of the posterior; encoded once."""
    path = work / f"{name}.npy"
    if not path.exists():
        parts = [vae.encode(pixels(part, device)).latent_dist.mean.cpu() * SCALE for part in images.split(64)]
        save(path, torch.cat(parts).half().numpy())
    return torch.from_numpy(np.load(path))


def train_decoder(
    work: Path, vae: AutoencoderKL, images: Tensor, latents: Tensor, steps: int, batch: int, device: str
) -> None:
    """Trains the decoder further, in place, for sharper images; the latents stay those the UNet was trained on."""
    parts = {"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder}
    copies = {name: copy.deepcopy(part).requires_grad_() for name, part in parts.items()}
    training = Training(work / "decoder.pt", copies, steps, rate=1e-3, decay=0.995)
    images, latents = images.to(device), latents.to(device)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        chosen = torch.randint(len(images), (batch,), generator=generator)
        noise = 0.03 * torch.randn(batch, *latents.shape[1:], generator=generator)  # as sampled latents are not exact
        chosen = chosen.to(device)
        return (latents[chosen].float() + noise.to(device)) / SCALE, pixels(images[chosen], device)

    def loss_of(noisy: Tensor, shown: Tensor) -> Tensor:
        error = training.modules["decoder"](training.modules["post_quant_conv"](noisy)) - shown
        return error.square().mean() + error.abs().mean()

    trained = training.run(draw, loss_of)
    for name, part in parts.items():
        part.load_state_dict(trained[name].state_dict())


@torch.no_grad()
def vae_quality(vae: AutoencoderKL, images: Tensor, device: str) -> float:
    batch = pixels(images[:64], device)
    rebuilt = vae.decode(vae.encode(batch).latent_dist.mean).sample.clamp(-1, 1)
    return 10 * math.log10(4 / (rebuilt - batch).square().mean().item())
