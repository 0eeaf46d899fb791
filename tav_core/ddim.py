"""DDIM inversion and sampling (Song et al. 2021, arXiv 2010.02502), over any predictor of the noise."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from .control import Control, residuals
from .errors import TavError
from .inflate import InflatedUNet

PredictNoise = Callable[[Tensor, int], Tensor]


@torch.no_grad()
def invert(
    predict_noise: PredictNoise,
    latents: Tensor,
    scheduler: DDIMScheduler,
    num_steps: int,
    *,
    on_step: Callable | None = None,
) -> Tensor:
    """Follows DDIM backwards from a clean video to the noise that it came from (Tune-A-Video, section 3.3).

    latents: (b, c, f, h, w), clean, already times the VAE's scaling factor.
    scheduler: gives betas, spacing and offset; its prediction type does not matter, see `as_noise`.
    Returns the trajectory (num_steps + 1, b, c, f, h, w), the clean latents first. As in the original, the network
    is told the timestep that is moved to, while the latents are still at the one before.
    """
    inverse = _on_noise(DDIMInverseScheduler, scheduler)
    timesteps = visited_timesteps(inverse, num_steps)
    trajectory = [latents]
    for step, timestep in enumerate(timesteps):
        noise = predict_noise(latents, timestep)
        latents = inverse.step(noise, timestep, latents).prev_sample
        trajectory.append(latents)
        if on_step:
            on_step(step + 1, num_steps, timestep=timestep, latents=latents)
    return torch.stack(trajectory)


@torch.no_grad()
def sample(
    predict_noise: PredictNoise,
    latents: Tensor,
    scheduler: DDIMScheduler,
    num_steps: int,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    on_step: Callable | None = None,
) -> Tensor:
    """Denoises video latents with DDIM, from an inversion's last entry or from random noise.

    latents: (b, c, f, h, w) at the first timestep; returns clean latents of the same shape.
    eta: 0 is deterministic, 1 adds as much noise per step as DDPM, drawn from `generator`.
    """
    scheduler = _on_noise(DDIMScheduler, scheduler)
    for step, timestep in enumerate(visited_timesteps(scheduler, num_steps)):
        noise = predict_noise(latents, timestep)
        latents = scheduler.step(noise, timestep, latents, eta=eta, generator=generator).prev_sample
        if on_step:
            on_step(step + 1, num_steps, timestep=timestep, latents=latents)
    return latents


def as_noise(predict: PredictNoise, scheduler: DDIMScheduler) -> PredictNoise:
    """Turns what a network predicts, by `scheduler`'s prediction type, into noise, at the timestep that it was told.

    Inversion tells the network another timestep than the latents are at, so only here is it still known at which
    noise level a velocity (Salimans & Ho 2022, arXiv 2202.00512: v = sqrt(a) noise - sqrt(1 - a) x_0) was meant.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return predict
    if kind != "v_prediction":
        raise TavError(f"Only networks that predict epsilon or v_prediction can be used, got {kind!r}.")

    def predict_noise(latents: Tensor, timestep: int) -> Tensor:
        alpha = scheduler.alphas_cumprod[timestep]
        return alpha.sqrt() * predict(latents, timestep) + (1 - alpha).sqrt() * latents

    return predict_noise


@dataclass(frozen=True)
class NoisePredictor:
    """The noise that an inflated network sees in video latents under a text (`prompt_embeds` as it takes them)."""

    unet: InflatedUNet
    prompt_embeds: Tensor
    scheduler: DDIMScheduler
    controls: tuple[Control, ...] = ()

    def __call__(self, latents: Tensor, timestep: int) -> Tensor:
        return as_noise(self._predict, self.scheduler)(latents, timestep)

    def _predict(self, latents: Tensor, timestep: int) -> Tensor:
        return self.unet(
            latents, timestep, self.prompt_embeds, **residuals(self.controls, latents, timestep, self.prompt_embeds)
        )


def guided(predict_cond: PredictNoise, predict_uncond: PredictNoise, guidance_scale: float) -> PredictNoise:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): u + scale * (c - u).

    A scale of 1 or less asks the conditional prediction alone, as the original does. Two NoisePredictors of one
    network are asked in one batch.
    """
    if guidance_scale <= 1:
        return predict_cond
    predict_both = _in_one_batch(predict_uncond, predict_cond)

    def predict_noise(latents: Tensor, timestep: int) -> Tensor:
        uncond, cond = predict_both(latents, timestep)
        return uncond + guidance_scale * (cond - uncond)

    return predict_noise


def _in_one_batch(first: PredictNoise, second: PredictNoise) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    """Asks two predictors; at once, where it is one network that reads two texts of the same shape."""
    both = first, second
    if (
        not all(isinstance(predict, NoisePredictor) for predict in both)
        or first.unet is not second.unet
        or first.prompt_embeds.shape[1:] != second.prompt_embeds.shape[1:]
        or first.controls != second.controls
    ):
        return lambda latents, timestep: (first(latents, timestep), second(latents, timestep))

    def predict(latents: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
        texts = [p.prompt_embeds.expand(len(latents), *p.prompt_embeds.shape[1:]) for p in both]
        joined = replace(first, prompt_embeds=torch.cat(texts))
        return joined(torch.cat([latents, latents]), timestep).chunk(2)

    return predict


def _on_noise(kind: type, scheduler: DDIMScheduler) -> DDIMScheduler | DDIMInverseScheduler:
    """The same schedule for noise predictions, without the clipping and thresholding that are meant for pixels."""
    if not isinstance(scheduler, DDIMScheduler):
        raise TavError(
            f"DDIM needs a diffusers DDIMScheduler, got a {type(scheduler).__name__}; "
            "make one with DDIMScheduler.from_config(...)."
        )
    pixels = ("clip_sample", "thresholding", "dynamic_thresholding_ratio", "sample_max_value")
    config = {name: value for name, value in scheduler.config.items() if name not in pixels}
    return kind.from_config(config, prediction_type="epsilon", clip_sample=False)


def visited_timesteps(scheduler: DDIMScheduler | DDIMInverseScheduler, num_steps: int) -> list[int]:
    """The timesteps that the network is told, in order; TavError where the schedule cannot be followed."""
    last = scheduler.config.num_train_timesteps - 1
    if not 1 <= num_steps <= last:
        raise TavError(f"The number of steps must be from 1 to {last}, got {num_steps}.")
    if scheduler.config.timestep_spacing not in ("leading", "trailing"):
        raise TavError(
            f"Inversion and sampling need timestep_spacing 'leading' or 'trailing', "
            f"got {scheduler.config.timestep_spacing!r}."
        )
    scheduler.set_timesteps(num_steps)
    timesteps = scheduler.timesteps.tolist()
    if scheduler.alphas_cumprod[max(timesteps)] <= 0:
        raise TavError(
            f"Timestep {max(timesteps)} of this schedule is pure noise (zero terminal SNR), from which no step of "
            "DDIM on noise leads back; use timestep_spacing='leading', which does not visit it."
        )
    return timesteps
