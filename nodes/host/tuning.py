"""One-shot tuning of a MODEL: its weights as a diffusers UNet, tuned by tav_core, with each run kept on disk."""

import hashlib
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

import comfy.model_management
import torch
from comfy.controlnet import ControlBase
from comfy.model_patcher import ModelPatcher
from diffusers import DDPMScheduler
from einops import rearrange
from torch import Tensor

from ...tav_core.errors import TavError
from ...tav_core.files import locked
from ...tav_core.inflate import InflatedUNet, inflate
from ...tav_core.inflation import Inflation
from ...tav_core.precision import PRECISIONS
from ...tav_core.resume import damage_in, losses_kept_in, steps_kept_in
from ...tav_core.tune import TuneConfig, tune
from ...tav_core.tuned import TunedWeights
from ...tav_core.version import __version__
from ...tav_core.windows import Windows, per_window
from .conditioning import check_prompts, conditions_of, only_prompt, prompt_of
from .control import check_controls, recorded, residuals_of, settings_of
from .differences import has_loras
from .inflate import inflated_of, without_tuned
from .keep import without_kept
from .lora import check_loras
from .memory import free_all
from .runs import Run, open_run
from .schedule import prediction_type_of, schedule_of
from .sd_model import compute_dtype, family_of, file_of
from .unseen import check_unseen
from .weights import base_fingerprint, diffusers_unet, digest_of_rest
from .windows import windows_of

INPUTS = {"c_crossattn": "prompt_embeds", "crossattn_controlnet": "control_embeds", "y": "y"}
"""The host's names of a prompt's conditions -> their names among a run's inputs."""
VALIDATION_TIMESTEP = 600  # where the motion shows and the outlines are still the network's own guess

OnStep = Callable[..., None]


def tune_model(
    patcher: ModelPatcher,
    samples: Tensor,
    positive: list,
    config: TuneConfig,
    *,
    root: Path,
    metadata: dict,
    on_step: OnStep,
    on_start: Callable[[int], None] = lambda step: None,
    snapshots: Collection[int] = (),
) -> tuple[TunedWeights, list[float], dict]:
    """Returns the tuned weights, the loss of each step, and a report of the run for the node's `ui` result.

    samples: (f, 4, h, w), as VAE Encode returns them. root: the folder of all runs. metadata: what else the weights
    should store. on_start: called with the number of steps done before. on_step: called as (step, total, loss=,
    estimate=); estimate() returns the network's current guess of the clean latents (f, c, h, w). snapshots: the steps
    after which the weights are also kept, so that asking for so many steps later takes no tuning.
    """
    began, patcher = time.perf_counter(), without_kept(patcher.clone())
    inflation, windows = _inflation_of(patcher), windows_of(patcher)
    control = only_prompt(positive, "Tuning").get("control")
    check_loras(patcher)
    check_unseen(patcher)
    check_prompts(positive, len(samples))
    check_controls(positive, samples, patcher)
    windows.check(len(samples))
    config = replace(config, window=windows.length if windows.divides(len(samples)) else 0)
    device, dtype = comfy.model_management.get_torch_device(), _dtype_to_tune(patcher, config.mixed_precision)
    metadata = metadata | {
        "loras": metadata.get("loras") or ([{"file": None, "strength": None}] if has_loras(patcher) else None),
        "controls": recorded(control, metadata.get("controls", ())) or None,
    }

    def report(how: str, **more: int) -> dict:
        return {"run": run.name, "how": how, "seconds": time.perf_counter() - began, **more}

    run, base = _open_run(root, patcher, samples, positive, inflation, config, dtype, device)
    with torch.inference_mode(False), torch.no_grad():
        if result := run.result(config.num_steps):
            logging.info("Tune-A-Video: already tuned, %d steps; reusing run %s.", config.num_steps, run.name)
            tuned, losses = result
            return replace(tuned, facts=replace(tuned.facts, **metadata)), losses, report("already tuned")
    with locked(run.folder, f"The run {run.name}"):
        first_step = _steps_done(run, config.num_steps)
        how = f"resumed at step {first_step}" if first_step else "new"
        logging.info("Tune-A-Video: run %s, %s, %d steps.", run.name, how, config.num_steps)
        free_all()
        try:
            with torch.inference_mode(False), torch.no_grad():
                unet = inflate(diffusers_unet(without_tuned(patcher), device, dtype), inflation)
                metadata |= _facts_of(patcher, samples, run)

                def weights_after(losses: list[float]) -> TunedWeights:
                    facts = metadata | {"steps": len(losses), "final_loss": losses[-1]}
                    its_config = replace(config, num_steps=len(losses))
                    return TunedWeights.from_unet(unet, base_fingerprint=base, config=its_config, **facts)

                def after_step(losses: list[float], total: int, estimate: Callable[[], Tensor]) -> None:
                    if len(losses) in snapshots and len(losses) < total:
                        run.keep(weights_after(losses), losses)
                    on_step(len(losses), total, loss=losses[-1], estimate=estimate)

                on_start(first_step)
                losses = _tune(unet, run, config, patcher, control, device, after_step)
                tuned = weights_after(losses)
                run.finish(tuned, losses)
                return tuned, losses, report(how, first_step=first_step)
        finally:
            unet = None
            free_all()


def _open_run(
    root: Path,
    patcher: ModelPatcher,
    samples: Tensor,
    positive: list,
    inflation: Inflation,
    config: TuneConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Run, str]:
    """The run that this tuning goes on with, or a new one; and the fingerprint of the MODEL that is tuned."""
    conditions = {INPUTS[name]: given for name, given in conditions_of(positive, patcher, samples).items()}
    controls, images = settings_of(only_prompt(positive, "Tuning").get("control"))
    plain = without_tuned(patcher)
    base = base_fingerprint(plain)
    settings = {
        "base": [base, digest_of_rest(plain)],
        "patches": _digest_of_patches(patcher),
        "inflation": inflation.as_key(),
        "network": [prediction_type_of(patcher), str(dtype), device.type],
        "schedule": hashlib.sha256(repr(schedule_of(patcher)["trained_betas"]).encode()).hexdigest(),
        "control": controls,
        "config": config.decisive(),
    }
    with torch.inference_mode(False), torch.no_grad():
        latents = patcher.model.process_latent_in(samples.to("cpu", torch.float32, copy=True))
        return open_run(root, settings, {"latents": latents, **conditions, **images}), base


def _facts_of(patcher: ModelPatcher, samples: Tensor, run: Run) -> dict:
    """What the weights say of the MODEL and of the clip."""
    return {
        "family": family_of(patcher),
        "checkpoint": file_of(patcher),
        "prediction_type": prediction_type_of(patcher),
        "frames": len(samples),
        "size": [8 * side for side in samples.shape[:1:-1]],
        "run": run.name,
        "version": __version__,
    }


def _tune(
    unet: InflatedUNet,
    run: Run,
    config: TuneConfig,
    patcher: ModelPatcher,
    control: ControlBase | None,
    device: torch.device,
    after_step: Callable,
) -> list[float]:
    latents = rearrange(run.inputs["latents"], "f c h w -> 1 c f h w").to(device)
    scheduler = DDPMScheduler(**schedule_of(patcher), prediction_type=prediction_type_of(patcher))
    given = {theirs: run.inputs[ours].to(device) for theirs, ours in INPUTS.items() if ours in run.inputs}
    prompt, windows = prompt_of(given), Windows(config.window)
    with residuals_of(control, patcher, given) as residuals:

        def predict(noisy: Tensor, timestep: Tensor, frames: list[int]) -> Tensor:
            """The prediction for a window, (f, c, h, w)."""
            part, given = noisy[:, :, frames], prompt.on_frames(frames)
            divided = {"frames": frames} if windows.divides(noisy.shape[2]) else {}
            prediction = unet(part, timestep, given, **(residuals(part, timestep, **divided) if residuals else {}))
            return rearrange(prediction, "1 c f h w -> f c h w")

        def estimate() -> Tensor:
            """The clip as the network denoises it, from the same noise at every step of a run."""
            generator = torch.Generator().manual_seed(config.seed)
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            timestep = torch.tensor([VALIDATION_TIMESTEP], device=device)
            with torch.no_grad():
                noisy = scheduler.add_noise(latents, noise, timestep)
                prediction = per_window(windows, latents.shape[2], partial(predict, noisy, timestep))
                prediction = rearrange(prediction, "f c h w -> 1 c f h w")
            clean = scheduler.step(prediction, VALIDATION_TIMESTEP, noisy, generator=generator).pred_original_sample
            return rearrange(clean, "1 c f h w -> f c h w")

        state = run.state(config.num_steps)
        losses = losses_kept_in(state)

        def on_step(step: int, total: int, *, loss: float, grad_norm: float) -> None:
            losses.append(loss)
            after_step(losses, total, estimate)

        return tune(
            unet,
            latents,
            prompt,
            scheduler,
            config,
            control=residuals,
            checkpoint=state,
            run=run.name,
            on_step=on_step,
        ).losses


def _inflation_of(patcher: ModelPatcher) -> Inflation:
    if inflated := inflated_of(patcher):
        return inflated.inflation
    raise TavError("This MODEL is not inflated; insert Inflate UNet between it and One-Shot Tune.")


def _dtype_to_tune(patcher: ModelPatcher, mixed_precision: str) -> torch.dtype:
    """A half-precision network can only be tuned in its own dtype; for any other, tuning uses float32."""
    own = compute_dtype(patcher)
    return own if mixed_precision == "auto" or PRECISIONS[mixed_precision] is own else torch.float32


def _steps_done(run: Run, num_steps: int) -> int:
    state = run.state(num_steps)
    if damage := damage_in(state):
        logging.warning("Tune-A-Video: run %s starts over: %s", run.name, damage)
        state.unlink()
    elif steps_kept_in(state) > num_steps:  # of a tuning with fewer steps than the run has, which was interrupted
        state.unlink()
    return steps_kept_in(state)


def _digest_of_patches(patcher: ModelPatcher) -> str:
    """Identifies LoRAs and their strengths by content; the same LoRAs may get a new patches_uuid."""
    digest = hashlib.sha256()

    def add(part: object) -> None:
        if isinstance(part, Tensor):
            digest.update(str(tuple(part.shape)).encode() + part.detach().float().cpu().contiguous().numpy().tobytes())
        elif isinstance(part, (list, tuple)):
            for item in part:
                add(item)
        elif hasattr(part, "weights"):  # a weight adapter: LoRA, LoHa, ...
            add([type(part).__name__, part.weights])
        else:
            digest.update(repr(part).encode() if not callable(part) else b"function")

    for key, patches in sorted(patcher.patches.items()):
        for strength, patch, strength_model, offset, _ in patches:
            add([key, strength, patch, strength_model, offset])
    return digest.hexdigest()
