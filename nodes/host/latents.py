"""What the nodes expect of a LATENT."""

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...tav_core.errors import TavError
from .schedule import sigmas_of

TIMESTEP = "tav_timestep"
"""The key of an inverted LATENT, with the timestep (0..999) that its noise belongs to; design.md says why."""
NOISE_LEVEL = "tav_noise_level"
"""Another, with the root mean square of that noise, by which it is told from a video that was made of it."""
LEAST_NOISE = 0.5
"""Between a clean video, of about a tenth of its noise's level, and the noise itself; see `timestep_of`."""


def frames_of(latent: dict, *, least: int = 1) -> Tensor:
    """The samples (f, 4, h, w) of a LATENT; TavError where it holds anything else."""
    samples = latent["samples"]
    shape = tuple(getattr(samples, "shape", ()))
    if len(shape) != 4 or shape[1] != 4:
        raise TavError(
            f"The latents are {shape or type(samples).__name__}, and Stable Diffusion's (frames, 4, height / 8, "
            "width / 8) are needed; encode the frames with VAE Encode and the checkpoint's own VAE."
        )
    if len(samples) < least:
        raise TavError(
            f"The latents hold {len(samples)} frame, and tuning needs at least {least} to learn a motion; load more "
            "frames."
        )
    if not samples.isfinite().all():
        raise TavError(
            "The latents hold NaN or infinite values; where VAE Encode made them, start ComfyUI with --fp32-vae."
        )
    if "noise_mask" in latent:
        raise TavError("A mask on the latents is not supported; take it out, or mask the conditioning instead.")
    return samples


def timestep_of(latent: dict, patcher: ModelPatcher) -> int | None:
    """The timestep of an inverted LATENT; None for any other.

    The host's samplers copy the keys onto the clean video that they make of the noise. There they are not believed,
    for a clean video has a much smaller root mean square than its noise.
    """
    if TIMESTEP not in latent:
        return None
    level = latent.get(NOISE_LEVEL, sigmas_of(patcher)[latent[TIMESTEP]].item())
    return latent[TIMESTEP] if noise_level(frames_of(latent), patcher) > LEAST_NOISE * level else None


def noise_level(samples: Tensor, patcher: ModelPatcher) -> float:
    """The root mean square of samples (f, 4, h, w), as the network sees them; of noise about its timestep's sigma."""
    return patcher.model.process_latent_in(samples).square().mean().sqrt().item()


def check_samplable(latent: dict, patcher: ModelPatcher) -> None:
    """Whether TAV Sample can start here: from inverted noise, or from nothing."""
    if timestep_of(latent, patcher) is None and frames_of(latent).count_nonzero():
        raise TavError(
            "These latents are neither of DDIM Invert nor empty, so nobody knows how much noise they hold; connect the "
            "latent of DDIM Invert, or an Empty Latent Image whose batch size is the number of frames."
        )


def check_clean(latent: dict, patcher: ModelPatcher) -> None:
    if timestep_of(latent, patcher) is not None:
        raise TavError("These latents are noise already, from DDIM Invert; connect those of VAE Encode.")
