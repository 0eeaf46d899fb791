"""What the nodes expect of a LATENT."""

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...tav_core.errors import TavError
from .schedule import sigmas_of

TIMESTEP = "tav_timestep"
"""The key of an inverted LATENT, with the timestep (0..999) that its noise belongs to; design.md says why."""
LEAST_NOISE = 0.3
"""Between a clean video, of about 0.1, and noise, of about 1; see `timestep_of`."""


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

    The host's samplers copy the key onto the clean video that they make of the noise. There it is not believed: in
    units of its timestep's sigma, noise has a root mean square of about 1, and a clean video a much smaller one.
    """
    if TIMESTEP not in latent:
        return None
    in_sigmas = patcher.model.process_latent_in(frames_of(latent)) / sigmas_of(patcher)[latent[TIMESTEP]].item()
    return latent[TIMESTEP] if in_sigmas.square().mean().sqrt() > LEAST_NOISE else None


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
