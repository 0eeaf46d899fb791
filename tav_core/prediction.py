"""Noise predictors for inversion and sampling, and classifier-free guidance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from .control import Control, residuals
from .errors import TavError, shown
from .inflate import InflatedUNet
from .known_frames import Known
from .prompt import Prompt, as_prompt, stacked

PredictNoise = Callable[[Tensor, int], Tensor]


def as_noise(predict: PredictNoise, scheduler: DDIMScheduler) -> PredictNoise:
    """Converts a network's predictions, of `scheduler`'s prediction type, to noise.

    A velocity (Salimans & Ho 2022, arXiv 2202.00512: v = sqrt(a) noise - sqrt(1 - a) x_0) has to be converted here,
    at the timestep given to the network, because in inversion the latents are at another one.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return predict
    if kind != "v_prediction":
        raise TavError(f"Only networks that predict epsilon or v_prediction can be used, got {shown(kind)}.")

    def predict_noise(latents: Tensor, timestep: int) -> Tensor:
        alpha = scheduler.alphas_cumprod[timestep]
        return alpha.sqrt() * predict(latents, timestep) + (1 - alpha).sqrt() * latents

    return predict_noise


@dataclass(frozen=True)
class NoisePredictor:
    """Predicts the noise in video latents by an inflated network and a prompt (`prompt_embeds` as it takes them).

    known: frames that the network is shown.
    """

    unet: InflatedUNet
    prompt_embeds: Tensor | Prompt
    scheduler: DDIMScheduler
    controls: tuple[Control, ...] = ()
    known: Known | None = None

    def __call__(self, latents: Tensor, timestep: int) -> Tensor:
        return as_noise(self._predict, self.scheduler)(latents, timestep)

    def on_frames(self, frames: Sequence[int]) -> "NoisePredictor":
        """The predictor of these frames alone, with their own prompts and control images."""
        controls = tuple(control.on_frames(frames) for control in self.controls)
        prompt, known = as_prompt(self.prompt_embeds).on_frames(frames), self.known and self.known.on_frames(frames)
        return replace(self, prompt_embeds=prompt, controls=controls, known=known)

    def _predict(self, latents: Tensor, timestep: int) -> Tensor:
        prompt = self.prompt_embeds
        return self.unet(
            latents, timestep, prompt, known=self.known, **residuals(self.controls, latents, timestep, prompt)
        )


def guided(predict_cond: PredictNoise, predict_uncond: PredictNoise, guidance_scale: float) -> PredictNoise:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): u + scale * (c - u).

    A scale of 1 or less uses only the conditional prediction, as the original does. Two NoisePredictors of one
    network run in one batch.
    """
    return Guided(predict_cond, predict_uncond, guidance_scale) if guidance_scale > 1 else predict_cond


@dataclass(frozen=True, eq=False)
class Guided:
    """A guided predictor, made by `guided`."""

    predict_cond: PredictNoise
    predict_uncond: PredictNoise
    guidance_scale: float

    def __call__(self, latents: Tensor, timestep: int) -> Tensor:
        uncond, cond = self._predict_both(latents, timestep)
        return uncond + self.guidance_scale * (cond - uncond)

    def on_frames(self, frames: Sequence[int]) -> "Guided":
        return Guided(self.predict_cond.on_frames(frames), self.predict_uncond.on_frames(frames), self.guidance_scale)

    @cached_property
    def _predict_both(self) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
        return _in_one_batch(self.predict_uncond, self.predict_cond)


def _in_one_batch(first: PredictNoise, second: PredictNoise) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    """Calls two predictors; in one batch if they share network and controls, and their prompts stack."""
    both = first, second
    if (
        not all(isinstance(predict, NoisePredictor) for predict in both)
        or first.unet is not second.unet
        or not as_prompt(first.prompt_embeds).stacks_with(as_prompt(second.prompt_embeds))
        or first.controls != second.controls
        or first.known is not second.known
    ):
        return lambda latents, timestep: (first(latents, timestep), second(latents, timestep))

    def predict(latents: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
        prompts = [as_prompt(predict.prompt_embeds).expand(len(latents)) for predict in both]
        joined = replace(first, prompt_embeds=stacked(prompts))
        return joined(torch.cat([latents, latents]), timestep).chunk(2)

    return predict
