"""DDIM inversion and sampling (Song et al. 2021, arXiv 2010.02502), for any noise predictor."""

from collections.abc import Callable

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from .errors import Overflowed, TavError, need
from .prediction import PredictNoise
from .source import NoisedPath, SourcePath


@torch.no_grad()
def invert(
    predict_noise: PredictNoise,
    latents: Tensor,
    scheduler: DDIMScheduler,
    num_steps: int,
    *,
    refinements: int = 0,
    on_step: Callable | None = None,
) -> Tensor:
    """Inverts DDIM: goes from a clean video to the noise that generates it (Tune-A-Video, section 3.3).

    latents: (b, c, f, h, w), clean, already times the VAE's scaling factor.
    scheduler: gives betas, spacing and offset; its prediction type is ignored, see `as_noise`.
    on_step: called as (step, total, timestep=, latents=, denoised=) after each step; `denoised` is the clean video
        estimated at that step, with the latents' shape and scale.
    refinements: how often each step is solved again with the noise predicted at the latents it led to, which is what
        sampling will predict from (fixed-point iteration, as in Pan et al. 2023, arXiv 2309.04907); each takes as long
        as the inversion itself, which with 0 is the original's.
    Returns the trajectory (num_steps + 1, b, c, f, h, w), clean latents first. As in the original, the network is
    given the timestep that the step moves to, while the latents are still at the previous one.
    Raises Overflowed, a TavError, if the latents become NaN or infinite, as `sample` does.
    """
    inverse = _on_noise(DDIMInverseScheduler, scheduler)
    timesteps = visited_timesteps(inverse, num_steps)
    trajectory = [latents]
    for step, timestep in enumerate(timesteps):
        result = inverse.step(predict_noise(latents, timestep), timestep, latents)
        for _ in range(refinements):
            result = inverse.step(predict_noise(result.prev_sample, timestep), timestep, latents)
        latents, denoised = _finite(result.prev_sample), result.pred_original_sample
        trajectory.append(latents)
        if on_step:
            on_step(step + 1, num_steps, timestep=timestep, latents=latents, denoised=denoised)
    return torch.stack(trajectory)


def source_path(trajectory: Tensor, scheduler: DDIMScheduler, num_steps: int) -> SourcePath:
    """The path of a trajectory (num_steps + 1, ...) that `invert` returned."""
    timesteps = visited_timesteps(_on_noise(DDIMInverseScheduler, scheduler), num_steps)
    return SourcePath(trajectory, timesteps, scheduler.alphas_cumprod)


@torch.no_grad()
def sample(
    predict_noise: PredictNoise,
    latents: Tensor,
    scheduler: DDIMScheduler,
    num_steps: int,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    source: SourcePath | NoisedPath | None = None,
    mask: Tensor | None = None,
    skip: int = 0,
    on_step: Callable | None = None,
) -> Tensor:
    """Denoises video latents with DDIM, starting from the last latents of an inversion or from random noise.

    latents: (b, c, f, h, w) at the first timestep; returns clean latents of the same shape.
    skip: how many of the steps are left out at the start; the latents are at the first timestep after them.
    eta: 0 is deterministic, 1 adds as much noise per step as DDPM, drawn from `generator`.
    mask: broadcastable to the latents, 0..1; outside of it (0) the latents are the source's at every step, and the
        clip's own in the end.
    on_step: as in `invert`; steps that are left out are not counted.
    """
    scheduler = _on_noise(DDIMScheduler, scheduler)
    timesteps = visited_timesteps(scheduler, num_steps)
    if mask is not None:
        mask = mask.to(latents)
        latents = source.at(timesteps[skip]).to(latents).lerp(latents, mask)
    for step, timestep in enumerate(timesteps[skip:], start=skip):
        noise = predict_noise(latents, timestep)
        result = scheduler.step(noise, timestep, latents, eta=eta, generator=generator)
        latents, denoised = result.prev_sample, result.pred_original_sample
        if mask is not None:
            clip = source.at(timesteps[step + 1]) if step + 1 < num_steps else source.clean
            latents = clip.to(latents).lerp(latents, mask)
        latents = _finite(latents)
        if on_step:
            on_step(step + 1 - skip, num_steps - skip, timestep=timestep, latents=latents, denoised=denoised)
    return latents


def _finite(latents: Tensor) -> Tensor:
    """The latents of a step; raises Overflowed at the first that are not finite, as all that follow would not be."""
    if not latents.isfinite().all():
        raise Overflowed(
            "The latents became NaN or infinite. The network overflowed, or was given such values; use bf16 or float32 "
            "and check what it was given."
        )
    return latents


def _on_noise(kind: type, scheduler: DDIMScheduler) -> DDIMScheduler | DDIMInverseScheduler:
    """The same schedule for noise predictions, without the clipping and thresholding meant for pixels."""
    if not isinstance(scheduler, DDIMScheduler):
        raise TavError(
            f"DDIM needs a diffusers DDIMScheduler, got a {type(scheduler).__name__}; "
            "create one with DDIMScheduler.from_config(...)."
        )
    pixels = ("clip_sample", "thresholding", "dynamic_thresholding_ratio", "sample_max_value")
    config = {name: value for name, value in scheduler.config.items() if name not in pixels}
    return kind.from_config(config, prediction_type="epsilon", clip_sample=False)


def visited_timesteps(scheduler: DDIMScheduler | DDIMInverseScheduler, num_steps: int) -> list[int]:
    """The timesteps given to the network, in order; raises TavError for a schedule that DDIM cannot follow."""
    last = scheduler.config.num_train_timesteps - 1
    need(1 <= num_steps <= last, "The number of steps", num_steps, f"from 1 to {last}")
    if scheduler.config.timestep_spacing not in ("leading", "trailing"):
        raise TavError(
            f"Inversion and sampling need timestep_spacing 'leading' or 'trailing', "
            f"got {scheduler.config.timestep_spacing!r}."
        )
    scheduler.set_timesteps(num_steps)
    timesteps = scheduler.timesteps.tolist()
    if scheduler.alphas_cumprod[max(timesteps)] <= 0:
        raise TavError(
            f"Timestep {max(timesteps)} of this schedule is pure noise (zero terminal SNR), and DDIM on noise "
            "predictions cannot start from it; use timestep_spacing='leading', which skips it."
        )
    return timesteps
