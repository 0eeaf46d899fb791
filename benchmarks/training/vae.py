"""The miniature's VAE, of factor 8 with 4 channels, as Stable Diffusion's."""

import copy
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from .images import pixels, save
from .loop import SEED, Length, Training

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


def train_vae(
    work: Path,
    images: Tensor,
    crops: Length,
    whole: Length,
    batch: int,
    device: str,
    *,
    start: Path | None = None,
    compiled: bool,
) -> AutoencoderKL:
    """Trains on crops of 64 pixels, which cost a quarter, and then, in a second cycle, on `batch` whole images a step.

    images: uint8; kept on the device, if that is a GPU.
    start: a miniature whose VAE to go on from, with whole images.
    """
    torch.manual_seed(SEED)
    if start:
        vae = AutoencoderKL.from_pretrained(start / "vae", torch_dtype=torch.float32).requires_grad_()
    else:
        vae = AutoencoderKL(**VAE)
        let_colours_pass(vae)
    vae, images = vae.to(device), images.to(device)

    def draw(side: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        count = batch * (2 if side < images.shape[2] else 1)
        chosen = torch.randint(len(images), (count,), generator=generator, device=images.device)
        places = torch.randint((images.shape[2] - side) // 8 + 1, (2,), generator=generator, device=images.device)
        rows, columns = (8 * place + torch.arange(side, device=images.device) for place in places)
        shown = pixels(images[chosen[:, None, None], :, rows[:, None], columns].permute(0, 3, 1, 2), device)
        shape = count, VAE["latent_channels"], side // 8, side // 8
        return shown, torch.randn(shape, generator=generator, device=images.device)

    def loss_of(shown: Tensor, noise: Tensor) -> Tensor:
        posterior = vae.encode(shown).latent_dist
        error = vae.decode(posterior.mean + posterior.std * noise).sample - shown
        return reconstruction_loss(error) + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel()

    if not start:
        training = Training(work / "vae.pt", {"vae": vae}, crops, rate=2e-3, decay=0.995, compiled=compiled)
        trained = training.run(lambda _, generator: draw(64, generator), loss_of)
        vae.load_state_dict(trained["vae"].state_dict())
    training = Training(
        work / "vae-whole.pt", {"vae": vae}, whole, rate=6e-4 if start else 1e-3, decay=0.995, compiled=compiled
    )
    return training.run(lambda _, generator: draw(128, generator), loss_of)["vae"]


def reconstruction_loss(error: Tensor) -> Tensor:
    return error.square().mean() + 0.02 * error.abs().mean()


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
    work: Path, vae: AutoencoderKL, images: Tensor, latents: Tensor, length: Length, batch: int, device: str
) -> None:
    """Trains the decoder further, in place; the latents stay those the UNet was trained on."""
    parts = {"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder}
    copies = {name: copy.deepcopy(part).requires_grad_() for name, part in parts.items()}
    training = Training(work / "decoder.pt", copies, length, rate=4e-4, decay=0.995)
    images, latents = images.to(device), latents.to(device)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        chosen = torch.randint(len(images), (batch,), generator=generator, device=images.device)
        # as sampled latents are not exact
        noise = 0.03 * torch.randn(batch, *latents.shape[1:], generator=generator, device=images.device)
        return (latents[chosen].float() + noise) / SCALE, pixels(images[chosen], device)

    def loss_of(noisy: Tensor, shown: Tensor) -> Tensor:
        return reconstruction_loss(training.modules["decoder"](training.modules["post_quant_conv"](noisy)) - shown)

    trained = training.run(draw, loss_of)
    for name, part in parts.items():
        part.load_state_dict(trained[name].state_dict())


@torch.no_grad()
def vae_quality(vae: AutoencoderKL, images: Tensor, device: str) -> float:
    batch = pixels(images[:64], device)
    rebuilt = vae.decode(vae.encode(batch).latent_dist.mean).sample.clamp(-1, 1)
    return 10 * math.log10(4 / (rebuilt - batch).square().mean().item())
