"""One-shot tuning: the loop, its settings and its checks (paper, section 3.3)."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from numbers import Integral, Real
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from einops import rearrange
from torch import Tensor, nn

from .errors import TavError, need, shown
from .files import ensure_writable
from .fingerprints import FREE, run_fingerprint
from .inflate import InflatedUNet
from .known_frames import Known, draw_known
from .memory import fits, tuning_bound, tuning_memory
from .precision import PRECISIONS, tuning_precision
from .prompt import Prompt, as_prompt
from .resume import TuneState
from .windows import Windows

LATER = {"window": 0, "image_share": 0.0}
"""Settings that came after the first release, each with the value at which it changes nothing."""


@dataclass(frozen=True)
class TuneConfig:
    """Settings of a tuning run; the defaults are the paper's.

    gradient_checkpointing: "auto" turns it on if a step would not fit into free memory without it.
    mixed_precision: "no", "bf16" or "fp16" (autocast, trained tensors in float32); "auto" is the dtype that the network
        is stored in, except that a float32 network on a GPU is tuned in bf16, or in fp16 if the GPU lacks bf16.
    checkpoint_every: steps between checkpoints, if a checkpoint path is given.
    window: frames per step, drawn from the clip as `Windows.drawn` does, so that memory and time do not grow with the
        clip; 0 takes all of them at every step.
    image_share: the share of the steps, drawn at random, in which each frame is an image of its own: neither attention
        nor convolution nor norm reaches another frame (joint training on images, Ho et al. 2022).
    """

    num_steps: int = 500
    learning_rate: float = 3e-5
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 1e-2
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    seed: int = 0
    gradient_checkpointing: bool | str = "auto"
    mixed_precision: str = "auto"
    checkpoint_every: int = 50
    window: int = 0
    image_share: float = 0.0

    def __post_init__(self):
        Windows(self.window)
        for name, least in (("num_steps", 1), ("seed", 0), ("checkpoint_every", 1)):
            value = getattr(self, name)
            whole = isinstance(value, Integral) and not isinstance(value, bool) and least <= value < 2**63
            need(whole, name, value, f"a whole number of at least {least}, below 2^63")
        for name, inside, needed in (
            ("learning_rate", lambda x: 0 < x < 1, "between 0 and 1, such as 3e-5"),
            ("adam_beta1", lambda x: 0 <= x < 1, "from 0 to below 1"),
            ("adam_beta2", lambda x: 0 <= x < 1, "from 0 to below 1"),
            ("adam_weight_decay", lambda x: 0 <= x < 1, "from 0 to below 1"),
            ("adam_epsilon", lambda x: 0 < x < 1, "between 0 and 1, such as 1e-8"),
            ("max_grad_norm", lambda x: x > 0, "above 0"),
            ("image_share", lambda x: 0 <= x < 1, "from 0 to below 1"),
        ):
            value = getattr(self, name)
            need(isinstance(value, Real) and inside(value), name, value, f"a number {needed}")
        switch = self.gradient_checkpointing
        need(switch in (True, False, "auto"), "gradient_checkpointing", switch, "True, False or 'auto'")
        choices = ("auto", *PRECISIONS)
        need(self.mixed_precision in choices, "mixed_precision", self.mixed_precision, f"one of {', '.join(choices)}")

    def decisive(self) -> dict:
        """What determines a run's result; settings of LATER only where they are set, so that old runs resume."""
        settings = {name: value for name, value in asdict(self).items() if name not in FREE}
        return {name: value for name, value in settings.items() if name not in LATER or value != LATER[name]}

    def step_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of a step's latents, for a clip's latents of a shape (b, c, f, h, w)."""
        batch, channels, frames, *size = shape
        return (batch, channels, min(frames, self.window or frames), *size)


@dataclass(frozen=True)
class TuneReport:
    """losses and grad_norms (before clipping) of every step, including those before a resume; steps: how many."""

    losses: list[float]
    grad_norms: list[float]
    steps: int


def tune(
    unet: InflatedUNet,
    latents: Tensor | tuple[Tensor, Tensor],
    prompt_embeds: Tensor | Prompt,
    scheduler: DDPMScheduler,
    config: TuneConfig = TuneConfig(),
    *,
    control: Callable[..., dict[str, Tensor]] | None = None,
    draw: Callable[[int], tuple[Tensor, Tensor, Tensor]] | None = None,
    checkpoint: str | os.PathLike | None = None,
    run: str | None = None,
    on_step: Callable | None = None,
) -> TuneReport:
    """Tunes the query projections and the temporal attention of an inflated network on one video, in place.

    A network inflated with known_frames is shown some of the frames at each step, drawn by `draw_known`, and learns to
    make the others.

    latents: (b, c, f, h, w), already times the VAE's scaling factor; or the mean and standard deviation of the
        VAE's posterior, each of that shape, which is then sampled at every step, as in the original.
    prompt_embeds: (b, n, d), of the prompt that describes the video; or (b, f, n, d), a prompt per frame; or a
        `Prompt`.
    scheduler: gives the noise schedule and the prediction type, epsilon or v_prediction.
    control: (noisy_latents, timesteps) -> residual arguments of the network for this step; in windows it also gets
        frames=, the numbers of the clip's frames that the latents are.
    draw: step -> (latents, noise, timesteps) of the whole clip, instead of the seeded draws; not with a window.
    checkpoint: a file to resume from if it exists; written every `config.checkpoint_every` steps, at the end, and
        before an exception propagates (including one from `on_step`, which is how a host cancels).
    run: the run's fingerprint, which that of the checkpoint must match; by default `run_fingerprint`.
    on_step: called as (step, total, loss=, grad_norm=) after each step.

    Afterwards the trained tensors are float32, even in a half-precision network, which still computes in its own dtype.

    Raises TavError for wrong shapes and settings, for a checkpoint of another run, and if tuning does not work: a loss
    that is not finite, tensors without gradients, tensors that do not change.
    """
    _check_inputs(unet, latents, prompt_embeds, scheduler)
    clean = latents if torch.is_tensor(latents) else latents[0]
    device, parameters = clean.device, unet.trainable_parameters()
    precision = tuning_precision(config.mixed_precision, unet.dtype, device)
    autocast = torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32)
    generator = torch.Generator(device).manual_seed(config.seed)
    windows, count, prompt = Windows(config.window), clean.shape[2], as_prompt(prompt_embeds)
    if draw and windows.divides(count):
        raise TavError("Draws of your own are of the whole clip; tune without a window.")
    random = partial(draw_noise, num_train_timesteps=scheduler.config.num_train_timesteps, generator=generator)
    unet.keep_base_queries()
    if checkpoint:
        ensure_writable(Path(checkpoint).parent)
        run = run or run_fingerprint(unet, latents, prompt_embeds, scheduler, config)

    checkpointing = resolve_checkpointing(config, unet, config.step_shape(clean.shape), device)
    with _training(unet, parameters, checkpointing=checkpointing):
        optimizer = torch.optim.AdamW(
            parameters.values(),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.adam_weight_decay,
            eps=config.adam_epsilon,
            fused=device.type in ("cuda", "cpu"),
        )
        scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
        kept = {"keep_in": checkpoint, "keep_every": config.checkpoint_every, "run": run}
        with TuneState(parameters, optimizer, scaler, generator, **kept) as state:
            if state.step > config.num_steps:
                raise TavError(
                    f"{checkpoint} already has {state.step} steps, but only {config.num_steps} were asked for; ask for "
                    f"at least {state.step}, or delete it."
                )
            for step in range(state.step, config.num_steps):
                frames = windows.drawn(count, generator)
                images = config.image_share and torch.rand(1, generator=generator, device=device) < config.image_share
                clean, noise, timesteps = draw(step) if draw else random(_frames_of(latents, frames))
                noisy = scheduler.add_noise(clean, noise, timesteps)
                part = {} if frames is None else {"frames": frames}
                residuals = control(noisy, timesteps, **part) if control else {}
                if unet.inflation.known_frames and not images:
                    residuals = residuals | {"known": Known(clean, draw_known(clean.shape[2], generator))}
                given = noisy, timesteps, prompt if frames is None else prompt.on_frames(frames)
                with autocast:
                    prediction = (partial(as_images, unet) if images else unet)(*given, **residuals)
                loss = F.mse_loss(prediction.float(), target(scheduler, clean, noise, timesteps).float())
                state.backward(loss)
                grad_norm = state.clip(config.max_grad_norm)
                state.update(loss.item(), grad_norm.item(), on_images=bool(images))
                if on_step:
                    on_step(state.step, config.num_steps, loss=state.losses[-1], grad_norm=state.grad_norms[-1])
    return TuneReport(state.losses, state.grad_norms, state.step)


def draw_noise(
    latents: Tensor | tuple[Tensor, Tensor], num_train_timesteps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws clean latents, noise and one timestep per video, in float32."""
    clean = (latents if torch.is_tensor(latents) else latents[0]).float()
    random = partial(torch.randn, clean.shape, generator=generator, device=clean.device)
    if not torch.is_tensor(latents):
        clean = clean + latents[1].float() * random()
    noise = random()
    return clean, noise, torch.randint(num_train_timesteps, clean.shape[:1], generator=generator, device=clean.device)


def as_images(unet: InflatedUNet, latents: Tensor, timesteps: Tensor, prompt: Prompt, **residuals) -> Tensor:
    """What a network for videos predicts where each frame is a video of its own; arguments and result as of `unet`."""
    batch, _, frames, _, _ = latents.shape
    images = rearrange(latents, "b c f h w -> (b f) c 1 h w")
    prediction = unet(
        images, timesteps.expand(batch).repeat_interleave(frames), prompt.per_image(batch, frames), **residuals
    )
    return rearrange(prediction, "(b f) c 1 h w -> b c f h w", f=frames)


def _frames_of(latents: Tensor | tuple[Tensor, Tensor], frames: Sequence[int] | None) -> Tensor | tuple[Tensor, Tensor]:
    if frames is None:
        return latents
    if torch.is_tensor(latents):
        return latents[:, :, frames]
    mean, deviation = latents
    return mean[:, :, frames], deviation[:, :, frames]


def target(scheduler: DDPMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The training target: the noise, or the velocity of Salimans & Ho 2022 (arXiv 2202.00512)."""
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(clean, noise, timesteps)
    return noise


@contextmanager
def _training(unet: InflatedUNet, parameters: dict[str, nn.Parameter], *, checkpointing: bool) -> Iterator[None]:
    """Makes only these parameters trainable, in float32 whatever the rest is in; afterwards none is."""
    was_training, was_checkpointing = unet.training, unet.unet.is_gradient_checkpointing
    try:
        unet.requires_grad_(False).train()
        for parameter in parameters.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        _switch_checkpointing(unet, checkpointing)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        _switch_checkpointing(unet, was_checkpointing)
        unet.requires_grad_(False).train(was_training)
        for parameter in parameters.values():
            parameter.grad = None


def _switch_checkpointing(unet: InflatedUNet, on: bool) -> None:
    if on:
        unet.unet.enable_gradient_checkpointing()  # diffusers' is non-reentrant, so every block gets gradients
    else:
        unet.unet.disable_gradient_checkpointing()


def resolve_checkpointing(config: TuneConfig, unet: InflatedUNet, shape: torch.Size, device: torch.device) -> bool:
    """Resolves `gradient_checkpointing` for latents of this shape (b, c, f, h, w) and the memory free now."""
    if config.gradient_checkpointing != "auto":
        return config.gradient_checkpointing
    if fits(tuning_bound(unet, shape), device):  # the exact count takes seconds
        return False
    half = tuning_precision(config.mixed_precision, unet.dtype, device) != torch.float32
    return not fits(tuning_memory(unet, shape, checkpointing=False, half=half), device)


def _check_inputs(unet: InflatedUNet, latents, prompt_embeds: Tensor | Prompt, scheduler: DDPMScheduler) -> None:
    """Checks only what concerns tuning; the network checks the rest."""
    if not isinstance(unet, InflatedUNet):
        raise TavError(f"Tuning needs an inflated network, got a {type(unet).__name__}; call inflate(unet) first.")
    given = (latents,) if torch.is_tensor(latents) else tuple(latents)
    if len(given) > 2 or given[0].shape != given[-1].shape:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in given)
        raise TavError(f"Tuning needs latents, or their mean and standard deviation of the same shape, got {shapes}.")
    if any(tensor.is_inference() for tensor in (*given, *as_prompt(prompt_embeds).tensors, *unet.parameters())):
        raise TavError(
            "Tuning cannot use tensors created in torch.inference_mode(); create network, latents and prompt "
            "embeddings outside it, or clone them under torch.inference_mode(False)."
        )
    for tensor in given:
        if tensor.ndim != 5:
            raise TavError(
                f"Tuning needs video latents (b, c, f, h, w), got {tuple(tensor.shape)}; encode the clip first."
            )
    if unet.inflation.position_bias and given[0].shape[2] < 2:
        raise TavError("A position bias relates frames to each other; it needs at least 2 frames, got 1.")
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise TavError(f"Only networks that predict epsilon or v_prediction can be tuned, got {shown(kind)}.")
