"""What the nodes require of a LATENT."""

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor

from ...tav_core.errors import TavError
from ...tav_core.files import without_numbers
from ...tav_core.source import SourcePath
from .schedule import sigmas_of

TIMESTEP = "tav_timestep"
"""Key of an inverted LATENT: the timestep (0..999) where the inversion ended, which sets the scale of its noise."""
NOISE_LEVEL = "tav_noise_level"
"""Key of an inverted LATENT: the root mean square of its noise, which distinguishes it from a video sampled from it."""
TRAJECTORY = "tav_trajectory"
"""Key of an inverted LATENT: the clip at each noise level, (steps + 1, f, c, h, w), float32, as the network sees it."""
TIMESTEPS = "tav_timesteps"
"""Key of an inverted LATENT: the timestep of each level but the first, ascending."""
OURS = (TIMESTEP, NOISE_LEVEL, TRAJECTORY, TIMESTEPS)
LEAST_NOISE = 0.5
"""Threshold between a clean video, at about 0.1 of its noise's level, and the noise itself, at 1; see `timestep_of`."""


def frames_of(latent: dict, *, least: int = 1, masked: bool = True) -> Tensor:
    """The samples (f, 4, h, w) of a LATENT; raises TavError for anything else.

    masked: whether the LATENT may have a noise mask.
    """
    samples = latent["samples"]
    shape = tuple(getattr(samples, "shape", ()))
    if len(shape) != 4 or shape[1] != 4:
        raise TavError(
            f"The latents are {shape or type(samples).__name__}, but Stable Diffusion needs (frames, 4, height / 8, "
            "width / 8); encode the frames with VAE Encode and the checkpoint's own VAE."
        )
    if len(samples) < least:
        raise TavError(
            f"The latents hold {len(samples)} frame, but tuning needs at least {least} to learn a motion; load more "
            "frames."
        )
    if without_numbers({"samples": samples}):
        raise TavError(
            "The latents contain NaN or infinite values; if VAE Encode made them, start ComfyUI with --fp32-vae."
        )
    if "noise_mask" in latent and not masked:
        raise TavError("Tuning sees whole frames, but the latents have a mask; set it behind One-Shot Tune instead.")
    return samples if samples.itemsize > 1 else samples.float()  # torch computes nothing in 8 bits


def timestep_of(latent: dict, patcher: ModelPatcher) -> int | None:
    """The timestep of an inverted LATENT; None for any other.

    The host's samplers copy the keys to the clean video they return. They are ignored there: a clean video has a much
    smaller root mean square than its noise.
    """
    if TIMESTEP not in latent:
        return None
    timestep, sigmas = latent[TIMESTEP], sigmas_of(patcher)
    if not _are_timesteps([timestep], sigmas):  # another node has overwritten it
        return None
    level = latent.get(NOISE_LEVEL)
    level = level if isinstance(level, float) else sigmas[timestep].item()
    return timestep if noise_level(frames_of(latent), patcher) > LEAST_NOISE * level else None


def _are_timesteps(values: object, sigmas: Tensor) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < len(sigmas) for value in values)


def path_of(latent: dict, patcher: ModelPatcher, purpose: str) -> SourcePath:
    """The clip's path through the noise in an inverted LATENT, each level (f, c, h, w).

    purpose: what needs it, for the TavError that is raised if another node has lost it or changed the latents.
    """
    trajectory, timesteps, sigmas = latent.get(TRAJECTORY), latent.get(TIMESTEPS), sigmas_of(patcher).double().cpu()
    kept = torch.is_tensor(trajectory) and trajectory.ndim == 5 and trajectory.is_floating_point()
    if not kept or not _are_timesteps(timesteps, sigmas) or not 0 < len(timesteps) == len(trajectory) - 1:
        raise TavError(
            f"{purpose} needs the latent from DDIM Invert, with the clip at each noise level; these latents come from "
            "elsewhere, or a node in between has lost it. Connect DDIM Invert directly."
        )
    if trajectory.shape[1:] != frames_of(latent).shape:
        raise TavError(
            f"{purpose} needs the latent from DDIM Invert as it was, {tuple(trajectory.shape[1:])}, but a node in "
            f"between made it {tuple(latent['samples'].shape)}; connect DDIM Invert directly."
        )
    path = SourcePath(trajectory.float(), list(timesteps), 1 / (sigmas**2 + 1))
    if not ends_at(path, patcher.model.process_latent_in(latent["samples"].float())):
        raise TavError(
            f"{purpose} needs the latent from DDIM Invert as it was, but a node in between has changed it, or sampled "
            "a video from it; connect DDIM Invert directly."
        )
    return path


def ends_at(path: SourcePath, noisy: Tensor) -> bool:
    """Whether latents, as the network sees them, are the noise at which an inversion ended."""
    expected = path.trajectory[-1] * (path.sigmas[-1] ** 2 + 1) ** 0.5
    return (noisy.to(expected) - expected).abs().max() < 0.05 * expected.square().mean().sqrt()


def noise_level(samples: Tensor, patcher: ModelPatcher) -> float:
    """The root mean square of samples (f, 4, h, w), as the network sees them; for noise, about its timestep's sigma."""
    return patcher.model.process_latent_in(samples.float()).square().mean().sqrt().item()


def check_samplable(latent: dict, patcher: ModelPatcher) -> None:
    """Raises TavError unless TAV Sample can start here: from inverted noise or an empty latent."""
    if timestep_of(latent, patcher) is None and frames_of(latent).count_nonzero():
        raise TavError(
            "These latents are neither empty nor from DDIM Invert, so their noise level is unknown; connect the latent "
            "from DDIM Invert, or an Empty Latent Image whose batch size is the number of frames."
        )


def check_clean(latent: dict, patcher: ModelPatcher) -> None:
    if timestep_of(latent, patcher) is not None:
        raise TavError("These latents are already noise from DDIM Invert; connect those from VAE Encode.")


def check_vae(vae: VAE, patcher: ModelPatcher) -> None:
    """Raises TavError for a VAE of latents with another number of channels than the MODEL's."""
    needed = patcher.model.latent_format.latent_channels
    if vae.latent_channels != needed:
        raise TavError(
            f"This VAE decodes latents of {vae.latent_channels} channels, but the MODEL's have {needed}; connect the "
            "checkpoint's own VAE."
        )
