"""Frames in between, onwards, backwards, and loops on a MODEL: tav_core/fill.py as a sampler of the host."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

import comfy.utils
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider
from comfy.sd import VAE
from diffusers import DDIMScheduler
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from ...tav_core.errors import TavError
from ...tav_core.fill import Filling, between, check_loop, close_loop, extend, fill
from ...tav_core.known_frames import Known
from ...tav_core.video.continuation import continued_by_flow, frames_to_follow
from ...tav_core.video.flow import interpolated_by_flow
from .control import chain_of
from .ddim import DDIM, GuidedNoise, ddim_scheduler, for_inversion, run_sampler
from .inflate import inflated_of
from .known_frames import KNOWN
from .latents import check_clean, check_vae, frames_of
from .windows import undivided, windows_of

SEEDS = 2**63
AT_ONCE = 8
"""Frames of a guess that are made and encoded before the next ones."""


def check_can_fill(patcher: ModelPatcher, node: str, num_steps: int, trust: float) -> None:
    """Raises TavError for a MODEL without tuned weights, and if they must make frames from noise, but have not learnt
    to see known frames.

    trust: as in tav_core's `fill`; 0 without a guess.
    """
    inflated = inflated_of(patcher)
    tuned = inflated and inflated.tuned
    if not tuned:
        raise TavError(
            f"{node} needs tuned weights, but this MODEL has none; connect the model of One-Shot Tune or Apply Tuned "
            "Weights."
        )
    from_noise = not Filling(num_steps).skipped(trust)
    if from_noise and not _sees_known(patcher):
        raise TavError(
            f"{node} would start from noise (no VAE or guess, or a trust too small for {num_steps} steps), for which "
            "weights must be tuned with known frames; connect a VAE, raise trust, or set known_frames in Inflate UNet "
            "and tune again."
        )


def clean_frames_of(latent: dict, patcher: ModelPatcher, node: str) -> Tensor:
    """The samples (f, 4, h, w) of a clean LATENT without a mask; raises TavError for any other."""
    samples = frames_of(latent)
    check_clean(latent, patcher)
    if "noise_mask" in latent:
        raise TavError(f"{node} makes whole frames, but the latents have a mask; remove it.")
    return samples


def interpolate_latents(
    patcher: ModelPatcher,
    positive: list,
    negative: list,
    samples: Tensor,
    factor: int,
    num_steps: int,
    *,
    cfg: float,
    seed: int,
    guess: Tensor | None = None,
    vae: VAE | None = None,
    trust: float = 0.0,
) -> Tensor:
    """A video with factor - 1 frames between each two, ((f - 1) * factor + 1, c, h, w), the given ones unchanged.

    samples: (f, c, h, w), clean, as VAE Encode returns them. guess, trust: as in tav_core's `fill`; the guess is like
    the result. vae: without a guess, makes one by optical flow.
    """
    _check_areas(patcher, positive, negative)
    known = between(_as_seen(samples, patcher), factor)
    shape = known.mask.shape + samples.shape[1:]
    if guess is not None and guess.shape != shape:
        raise TavError(
            f"The guess is {tuple(guess.shape)}, but {len(samples)} frames with factor {factor} become {tuple(shape)}; "
            "give as many frames of the same size, such as those of FrameInterpolate with the same factor."
        )
    filling = Filling(num_steps, seed % SEEDS)
    if guess is None and vae is not None and filling.skipped(trust):
        by_flow = partial(interpolated_by_flow, factor=factor)
        guess = _guess_by_flow(vae, patcher, samples, by_flow, len(known.mask), "Interpolate Video, guess")
    guessed = None if guess is None else _as_seen(guess, patcher)

    def make(predictor_of: Callable, like: Tensor, **given) -> Tensor:
        here = Known(known.latents.to(like), known.mask.to(like.device))
        near = None if guessed is None else guessed.to(like)
        return fill(predictor_of, here, filling=filling, guess=near, trust=trust, **given)

    sampler = _Fill("Interpolate Video", ddim_scheduler(patcher), num_steps, make)
    empty = samples.new_zeros(shape)
    video = run_sampler(for_inversion(patcher), sampler, positive, negative, cfg, empty, empty, seed)
    video[known.mask.to(video.device)] = samples.to(video)
    return video


def extend_latents(
    patcher: ModelPatcher,
    positive: list,
    negative: list,
    samples: Tensor,
    num_frames: int,
    direction: str,
    num_steps: int,
    *,
    cfg: float,
    seed: int,
    correction: float = 0.0,
    guess: Tensor | None = None,
    vae: VAE | None = None,
    trust: float = 0.0,
) -> Tensor:
    """A video with `num_frames` more, (f + num_frames, c, h, w), the given ones unchanged.

    samples: as in `interpolate_latents`. direction: "onwards", "backwards" or "loop". correction, trust: as in
    tav_core's `extend`; a loop has no correction. guess: (num_frames, c, h, w), the new frames in order of time. vae:
    without a guess, makes one by optical flow. The MODEL's windows say only how many frames it sees at once.
    """
    _check_areas(patcher, positive, negative)
    for conditioning in (positive, negative):
        _check_images(conditioning)
    clip, filling = _as_seen(samples, patcher), Filling(num_steps, seed % SEEDS, windows_of(patcher))
    length, backwards = filling.length(clip), direction == "backwards"
    shape = (num_frames, *samples.shape[1:])
    if guess is not None and guess.shape != shape:
        raise TavError(
            f"The guess is {tuple(guess.shape)}, but the new frames are {tuple(shape)}; give one of the new frames "
            "alone, of the same size."
        )
    continued = partial(extend, backwards=backwards, correction=correction)
    if direction == "loop":
        check_loop(length, num_frames)
        continued = close_loop
    if guess is None and vae is not None and filling.skipped(trust):
        by_flow = partial(continued_by_flow, count=num_frames, direction=direction)
        near = frames_to_follow(samples, direction)
        guess = _guess_by_flow(vae, patcher, near, by_flow, num_frames, "Extend Video, guess")
    guessed = None if guess is None else _as_seen(guess, patcher)

    def make(predictor_of: Callable, like: Tensor, **given) -> Tensor:
        near = None if guessed is None else guessed.to(like)
        return continued(predictor_of, clip.to(like), num_frames, filling=filling, guess=near, trust=trust, **given)

    sampler, patcher = _Fill("Extend Video", ddim_scheduler(patcher), num_steps, make), for_inversion(patcher)
    seen = samples.new_zeros(length, *samples.shape[1:])
    video = run_sampler(undivided(patcher), sampler, positive, negative, cfg, seen, seen, seed)
    (video[num_frames:] if backwards else video[: len(samples)]).copy_(samples)
    return video


class _Fill(DDIM):
    """make: (predictor_of, like, scheduler=, on_step=) -> (1, c, f, h, w), on the device of `like`."""

    def __init__(self, title: str, scheduler: DDIMScheduler, num_steps: int, make: Callable):
        super().__init__(scheduler, num_steps)
        self.title, self.make = title, make

    def predictor(self, guider: CFGGuider, extra_args: dict) -> Callable[[Known], GuidedNoise]:
        def predictor_of(known: Known) -> GuidedNoise:
            options = extra_args["model_options"]
            shown = options["transformer_options"] | {KNOWN: known}
            return GuidedNoise(guider, {**extra_args, "model_options": {**options, "transformer_options": shown}})

        return predictor_of

    def start(self, noise: Tensor, latent_image: Tensor) -> Tensor:
        return latent_image

    def follow(self, predictor_of: Callable, latents: Tensor, on_step: Callable) -> Tensor:
        return self.make(predictor_of, latents, scheduler=self.scheduler, on_step=on_step)


def _guess_by_flow(
    vae: VAE,
    patcher: ModelPatcher,
    samples: Tensor,
    by_flow: Callable[[Tensor], Iterable[Tensor]],
    count: int,
    title: str,
) -> Tensor:
    """What optical flow guesses from a video's frames, (count, c, h, w).

    samples: (f, c, h, w), clean. by_flow: frames (f, h, w, 3) in 0..1 -> `count` of them. title: on the console.
    """
    check_vae(vae, patcher)
    frames = vae.decode(samples).float().cpu()  # the host may keep images on its GPU, or in half precision
    if not frames.isfinite().all():
        raise TavError("The VAE returned NaN or infinite pixels; start ComfyUI with --fp32-vae.")
    guess, parts = _counted(by_flow(frames), count, title), []
    while part := list(islice(guess, AT_ONCE)):
        parts.append(vae.encode(torch.stack(part)))
    return frames_of({"samples": torch.cat(parts)})


def _counted(frames: Iterable[Tensor], count: int, title: str) -> Iterator[Tensor]:
    """The same frames, each of which moves the progress bars in the node and on the console."""
    bar = comfy.utils.ProgressBar(count)
    for frame in tqdm(frames, total=count, desc=title, disable=not comfy.utils.PROGRESS_BAR_ENABLED):
        throw_exception_if_processing_interrupted()
        bar.update(1)
        yield frame


def _as_seen(samples: Tensor, patcher: ModelPatcher) -> Tensor:
    """Samples (f, c, h, w) as the network sees them, (1, c, f, h, w)."""
    return rearrange(patcher.model.process_latent_in(samples.float()), "f c h w -> 1 c f h w")


def _sees_known(patcher: ModelPatcher) -> bool:
    """Whether a tuned MODEL has learnt to see known frames."""
    inflated = inflated_of(patcher)
    return inflated.inflation.known_frames and inflated.tuned.facts.inflation.known_frames


def _check_areas(patcher: ModelPatcher, *conditionings: list) -> None:
    """Refuses parts of frames where known frames are shown, before a guess is made; masks are seen as a whole."""
    options = [options for conditioning in conditionings for _, options in conditioning]
    if _sees_known(patcher) and any("area" in each or each.get("set_area_to_bounds") for each in options):
        raise TavError(
            "Weights tuned with known frames see whole frames only, so remove areas from the prompts, or give them "
            "masks with set_cond_area default."
        )


def _check_images(conditioning: list) -> None:
    """Refuses what belongs to single frames: of frames that are yet to be made there is none."""
    for prompt, options in conditioning:
        mask = options.get("mask")
        count = max(len(prompt), 1 if mask is None or mask.ndim < 3 else len(mask))
        if count > 1:
            raise TavError(
                f"Extend Video takes one prompt for all frames, but got prompts or masks for {count}; frames that are "
                "yet to be made have none of their own."
            )
        for control in chain_of(options.get("control")):
            if (images := control.cond_hint_original) is not None and len(images) > 1:
                raise TavError(
                    f"Extend Video takes one ControlNet image for all frames, but got {len(images)}; frames that are "
                    "yet to be made have none of their own."
                )
