"""A ControlNet of the host, as the `control` of tav_core's tuning."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import comfy.model_management
import torch
from comfy.controlnet import ControlBase, ControlLora, ControlNet
from comfy.model_patcher import ModelPatcher
from einops import rearrange
from torch import Tensor

from ...tav_core.errors import TavError
from ...tav_core.inversion import digest_of
from .schedule import sigmas_of

Residuals = Callable[[Tensor, Tensor], dict[str, Tensor | tuple]]


@contextmanager
def residuals_of(
    control: ControlBase | None, patcher: ModelPatcher, prompt_embeds: Tensor
) -> Iterator[Residuals | None]:
    """(noisy latents (1, c, f, h, w), timesteps (1,)) -> the residual arguments of an inflated network.

    prompt_embeds: (1 or f, n, d). The ControlNet is on the device while the block runs.
    """
    if control is None:
        yield None
        return
    sampling, sigmas = patcher.get_model_object("model_sampling"), sigmas_of(patcher)
    # safe: what the host does around a sampling run: load the models, tell them of this MODEL, run, clean up
    comfy.model_management.load_models_gpu(control.get_models())
    model = SimpleNamespace(model_sampling=sampling, diffusion_model=patcher.model.diffusion_model)
    control.pre_run(model, sampling.percent_to_sigma)

    def residuals(noisy: Tensor, timesteps: Tensor) -> dict[str, Tensor | tuple]:
        sigma = sigmas[timesteps.cpu()].to(noisy)
        latents = rearrange(noisy, "1 c f h w -> f c h w") * (sigma**2 + 1).sqrt()
        text = prompt_embeds.to(noisy.device).expand(len(latents), -1, -1)
        with torch.inference_mode():  # the host's weights may be made in it
            given = control.get_control(latents, sigma.expand(len(latents)), {"c_crossattn": text}, 1, {})
        return _as_diffusers(given or {}, noisy)

    try:
        yield residuals
    finally:
        control.cleanup()


def _as_diffusers(given: dict[str, list], noisy: Tensor) -> dict[str, Tensor | tuple]:
    """Copies that can be trained with; the host adds `output` to the skips, in their order, and `middle` once."""
    skips = [torch.zeros((), device=noisy.device) if r is None else r.to(noisy) for r in given.get("output", [])]
    middle = next((r.to(noisy) for r in given.get("middle", []) if r is not None), None)
    return {
        "down_block_additional_residuals": tuple(r.clone() for r in skips) or None,
        "mid_block_additional_residual": None if middle is None else middle.clone(),
    }


def told_of(control: ControlBase | None) -> tuple[list, dict[str, Tensor]]:
    """What decides a ControlNet's say: settings that JSON holds, and the pictures it was given."""
    settings, pictures = [], {}
    while control is not None:
        # the others have no network of their own: they come from the MODEL's weights, or work outside of its skips
        if not isinstance(control, ControlNet) or isinstance(control, ControlLora):
            raise TavError(
                f"A {type(control).__name__} cannot take part in tuning; connect a ControlNet that is whole, or tune "
                "without."
            )
        # safe: what core's apply nodes and copy_to set on each control, with its picture and the one before it
        told = [control.strength, *control.timestep_percent_range, control.extra_args]
        settings.append([digest_of(control.control_model), *told])
        pictures[f"hint.{len(pictures)}"] = control.cond_hint_original
        control = control.previous_controlnet
    return settings, pictures
