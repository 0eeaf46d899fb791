"""What the nodes expect of a LATENT."""

from torch import Tensor

from ...tav_core.errors import TavError

TIMESTEP = "tav_timestep"
"""The key of an inverted LATENT, with the timestep (0..999) that its noise belongs to; design.md says why."""


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


def check_samplable(latent: dict) -> None:
    """Whether TAV Sample can start here: from inverted noise, or from nothing."""
    if TIMESTEP not in latent and frames_of(latent).count_nonzero():
        raise TavError(
            "These latents are neither of DDIM Invert nor empty, so nobody knows how much noise they hold; connect the "
            "latent of DDIM Invert, or an Empty Latent Image whose batch size is the number of frames."
        )


def check_clean(latent: dict) -> None:
    if TIMESTEP in latent:
        raise TavError("These latents are noise already, from DDIM Invert; connect those of VAE Encode.")
