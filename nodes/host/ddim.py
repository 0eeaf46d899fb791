"""DDIM on a MODEL: tav_core's loops as samplers of the host, run by its CFGGuider.

This way injections, wrappers and the host's handling of conditioning (ControlNet, areas, masks, ranges) take effect.
"""

from dataclasses import replace
from functools import partial

import comfy.model_management
import comfy.sample
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.samplers import CFGGuider, Sampler
from diffusers import DDIMScheduler
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from ...tav_core.ddim import invert, sample, source_path, visited_timesteps
from ...tav_core.errors import Overflowed, TavError
from ...tav_core.masks import latent_mask
from ...tav_core.source import SourcePath
from ...tav_core.steps import INVERSIONS
from .conditioning import check_prompts
from .control import check_controls
from .keep import without_kept
from .latents import NOISE_LEVEL, TIMESTEP, TIMESTEPS, TRAJECTORY, noise_level, path_of, timestep_of
from .lora import check_loras
from .schedule import schedule_of, sigmas_of


def ddim_scheduler(patcher: ModelPatcher) -> DDIMScheduler:
    """A scheduler with the MODEL's own noise schedule and Stable Diffusion's settings for DDIM."""
    return DDIMScheduler(**schedule_of(patcher), timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)


def sampling_sigmas(patcher: ModelPatcher, num_steps: int) -> Tensor:
    """The noise levels that sampling visits in `num_steps`, then 0, as the host's custom samplers expect them."""
    timesteps = visited_timesteps(ddim_scheduler(patcher), num_steps)
    return torch.cat([sigmas_of(patcher)[timesteps].float().cpu(), torch.zeros(1)])


KINDS = (WrappersMP.OUTER_SAMPLE, WrappersMP.CALC_COND_BATCH, WrappersMP.PREDICT_NOISE, WrappersMP.DIFFUSION_MODEL)


class GuidedNoise:
    """Predicts the noise in latents z (1, c, f, h, w) by a guided MODEL; the host expects z * sqrt(sigma^2 + 1)."""

    def __init__(self, guider: CFGGuider, extra_args: dict):
        self.guider, self.extra_args = guider, extra_args
        self.sigmas = sigmas_of(guider.model_patcher)

    def __call__(self, latents: Tensor, timestep: int) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        sigma = self.sigmas[timestep].to(latents)
        noisy = rearrange(latents, "1 c f h w -> f c h w") * (sigma**2 + 1).sqrt()
        denoised = self.guider(noisy, sigma.expand(len(noisy)), **self.extra_args)
        return rearrange((noisy - denoised) / sigma, "f c h w -> 1 c f h w")


class DDIM(Sampler):
    """A loop of tav_core's; its steps are counted as the loop counts them."""

    takes_inverted_noise = True

    def __init__(self, scheduler: DDIMScheduler, num_steps: int):
        self.scheduler, self.num_steps = scheduler, num_steps

    def sample(
        self, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        # on the console, as the host's samplers show it
        bar = tqdm(total=self.num_steps, desc=self.title, disable=not comfy.utils.PROGRESS_BAR_ENABLED)

        def on_step(step: int, total: int, *, latents: Tensor, denoised: Tensor, **_) -> None:
            bar.total = total
            bar.update(step - bar.n)
            if callback:
                denoised, latents = (rearrange(x, "1 c f h w -> f c h w") for x in (denoised, latents))
                callback(step - 1, denoised, latents, total)

        latents = rearrange(self.start(noise, latent_image), "f c h w -> 1 c f h w")
        with bar:
            output = self.follow(self.predictor(guider, extra_args), latents, on_step)
        return rearrange(output, "1 c f h w -> f c h w")

    def predictor(self, guider: CFGGuider, extra_args: dict):
        return GuidedNoise(guider, extra_args)


class _Invert(DDIM):
    """refinements: as in tav_core's `invert`. Leaves its trajectory, (steps + 1, f, c, h, w)."""

    title = "DDIM Invert"

    def __init__(self, scheduler: DDIMScheduler, num_steps: int, refinements: int):
        super().__init__(scheduler, num_steps)
        self.refinements, self.trajectory = refinements, None

    def start(self, noise: Tensor, latent_image: Tensor) -> Tensor:
        return latent_image

    def follow(self, predict_noise, latents: Tensor, on_step) -> Tensor:
        trajectory = invert(
            predict_noise, latents, self.scheduler, self.num_steps, refinements=self.refinements, on_step=on_step
        )
        self.trajectory = rearrange(trajectory, "n 1 c f h w -> n f c h w").cpu()
        return trajectory[-1] * _scale(self.scheduler, visited_timesteps(self.scheduler, self.num_steps)[0])


class _Sample(DDIM):
    """timestep: the inverted noise's in `latent_image`; None for fresh noise."""

    title = "TAV Sample"

    def __init__(self, scheduler: DDIMScheduler, num_steps: int, timestep: int | None, eta: float, seed: int):
        super().__init__(scheduler, num_steps)
        self.timestep, self.eta, self.seed = timestep, eta, seed
        self.path, self.mask = None, None

    def change_only(self, mask: Tensor, path: SourcePath) -> None:
        """Keeps the video as it is on the clip's path outside of a mask, (f, 1, h, w), and of any given before."""
        mask = rearrange(mask, "f 1 h w -> 1 1 f h w")
        self.path, self.mask = path, mask if self.mask is None else self.mask * mask

    def start(self, noise: Tensor, latent_image: Tensor) -> Tensor:
        return noise if self.timestep is None else latent_image / _scale(self.scheduler, self.timestep)

    def follow(self, predict_noise, latents: Tensor, on_step) -> Tensor:
        # not for nothing, as some devices (DirectML) have none
        generator = torch.Generator(latents.device).manual_seed(self.seed) if self.eta else None
        run = partial(sample, predict_noise, latents, self.scheduler, self.num_steps, on_step=on_step)
        if self.mask is not None:
            trajectory = rearrange(self.path.trajectory, "n f c h w -> n 1 c f h w").to(latents)
            run = partial(run, source=replace(self.path, trajectory=trajectory), mask=self.mask.to(latents))
        return run(eta=self.eta, generator=generator)


class CustomDDIM(Sampler):
    """SAMPLER: DDIM as TAV Sample runs it, in as many steps as there are sigmas."""

    def __init__(self, eta: float):
        self.eta = eta

    def sample(
        self, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        patcher, num_steps = guider.model_patcher, len(sigmas) - 1
        expected = sampling_sigmas(patcher, num_steps) if num_steps > 0 else None
        if expected is None or not torch.allclose(sigmas.cpu().float(), expected, rtol=1e-3):
            raise TavError(
                f"DDIM Sampler got sigmas that DDIM does not visit in {num_steps} steps; connect those of DDIM Invert, "
                "or of Basic Scheduler with ddim_uniform at 10, 20, 25, 40, 50 or 100 steps and denoise 1."
            )
        if denoise_mask is not None:
            raise TavError(
                "DDIM Sampler has no clip to keep outside of a mask; use TAV Sample, or put Keep From Source before "
                "the guider."
            )
        scheduler, seed = ddim_scheduler(patcher), extra_args.get("seed") or 0
        first = visited_timesteps(scheduler, num_steps)[0]
        sampler = _Sample(scheduler, num_steps, first, self.eta, (seed + 1) % 2**63)
        noisy = latent_image + noise * sigmas[0].to(noise)  # the host's convention for all its samplers
        return sampler.sample(guider, sigmas, extra_args, callback, noise, noisy)


def _scale(scheduler: DDIMScheduler, timestep: int) -> float:
    """sqrt(sigma^2 + 1), the factor from z to the host's noisy latents."""
    return scheduler.alphas_cumprod[timestep].item() ** -0.5


def invert_latents(
    patcher: ModelPatcher, positive: list, samples: Tensor, num_steps: int, invert_with: str = "ddim"
) -> dict:
    """The LATENT of a clip's inverted noise, and of the clip at each level on the way.

    samples: (f, c, h, w), clean, as VAE Encode returns them. invert_with: one of tav_core's INVERSIONS.
    """
    scheduler = ddim_scheduler(patcher)
    sampler = _Invert(scheduler, num_steps, INVERSIONS[invert_with])
    noise = run_sampler(for_inversion(patcher), sampler, positive, None, 1.0, torch.zeros_like(samples), samples, 0)
    path = source_path(sampler.trajectory, scheduler, num_steps)
    return {
        "samples": noise,
        TIMESTEP: visited_timesteps(scheduler, num_steps)[0],
        NOISE_LEVEL: noise_level(noise, patcher),
        TRAJECTORY: path.trajectory,
        TIMESTEPS: list(path.timesteps),
    }


def for_inversion(patcher: ModelPatcher) -> ModelPatcher:
    """Without what belongs to sampling alone: what edits keep, and caches that assume that noise levels fall once."""
    patcher = without_kept(patcher.clone())
    for key in ("easycache", "lazycache"):
        for kind in KINDS:
            patcher.remove_wrappers_with_key(kind, key)
    return patcher


def sample_latents(
    patcher: ModelPatcher, positive: list, negative: list | None, latent: dict, num_steps: int, *, cfg, eta, seed
) -> Tensor:
    """A video's clean latents (f, c, h, w), from a LATENT of `invert_latents` or, if it is zero, from fresh noise.

    Outside of the LATENT's noise mask, the video stays the clip.
    """
    samples, timestep = latent["samples"], timestep_of(latent, patcher)
    noise = comfy.sample.prepare_noise(samples, seed)
    # seed + 1, so that eta's noise differs from `noise`
    sampler = _Sample(ddim_scheduler(patcher), num_steps, timestep, eta, (seed + 1) % 2**63)
    if (given := latent.get("noise_mask")) is not None:
        mask = latent_mask(given.reshape(-1, *given.shape[-2:]), len(samples), tuple(samples.shape[-2:]))
        path = path_of(latent, patcher, "A mask on the latents")
        sampler.change_only(rearrange(mask, "1 1 f h w -> f 1 h w"), path)
    return run_sampler(patcher, sampler, positive, negative, cfg, noise, samples, seed)


def run_sampler(
    patcher: ModelPatcher, sampler: DDIM, positive, negative, cfg: float, noise, samples, seed: int
) -> Tensor:
    """What a sampler makes of noise and samples, each (f, c, h, w), with the host's guider around it."""
    check_loras(patcher)
    for conditioning in (positive, negative or ()):
        check_prompts(conditioning, len(samples))
        check_controls(conditioning, samples, patcher)
    # safe: as core's SamplerCustomAdvanced does; without a negative, as its BasicGuider does
    guider = CFGGuider(patcher)
    guider.set_conds(positive, negative) if negative else guider.inner_set_conds({"positive": positive})
    guider.set_cfg(cfg)
    callback = latent_preview.prepare_callback(patcher, sampler.num_steps)
    sigmas = sampling_sigmas(patcher, sampler.num_steps)
    try:
        output = guider.sample(noise, samples, sampler, sigmas, callback=callback, disable_pbar=True, seed=seed)
    except Overflowed as error:
        raise TavError(
            "The MODEL returned NaN or infinite values, probably from an overflow in half precision; switch to bf16 or "
            "fp32 with the node ModelComputeDtype, or start ComfyUI with --force-fp32."
        ) from error
    # safe: where core's own samplers put their output
    return output.to(comfy.model_management.intermediate_device())
