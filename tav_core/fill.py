"""Frames around known ones: in between, onwards, backwards, and loops.

All of it is one thing: a video of which some frames are known is sampled, and at each step the known frames are put
back at that step's noise level, while the network is shown them clean (see known_frames.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from .ddim import sample, visited_timesteps
from .errors import TavError, need
from .known_frames import Known
from .prediction import PredictNoise
from .source import NoisedPath
from .windows import Windows, windowed

PredictorOf = Callable[[Known], PredictNoise]
"""Makes a predictor of the noise, guided or not, in a video of which these frames are known."""


@dataclass(frozen=True)
class Filling:
    """How frames are sampled.

    num_steps: DDIM steps. seed: of the noise.
    windows: what the network sees at once: by default, all of an interpolated video, and as many frames as the video
        has where it is continued.
    """

    num_steps: int = 50
    seed: int = 0
    windows: Windows = Windows()

    def length(self, latents: Tensor) -> int:
        """The frames of a window where a video (b, c, f, h, w) is continued; raises TavError for a single frame."""
        length = min(self.windows.length or latents.shape[2], latents.shape[2])
        if length < 2:
            raise TavError("A continuation needs at least 2 frames to go on from, got 1.")
        return length

    def skipped(self, share: float) -> int:
        """How many steps a guess replaces; at least one is left."""
        return min(round(share * self.num_steps), self.num_steps - 1)


def fill(
    predictor_of: PredictorOf,
    known: Known,
    scheduler: DDIMScheduler,
    filling: Filling = Filling(),
    *,
    guess: Tensor | None = None,
    trust: float = 0.0,
    on_step: Callable | None = None,
) -> Tensor:
    """Makes the unknown frames of a video; (b, c, f, h, w), the known ones exactly as given.

    guess: the same shape; what unknown frames may look like. trust: the share of the steps that it replaces, 0 (for
        none; they start from noise) to below 1; at least one step is left.
    on_step: as in `sample`.
    """
    need(0 <= trust < 1, "trust", trust, "from 0 to below 1")
    skip = 0 if guess is None else filling.skipped(trust)
    return _filled(predictor_of(known), known, scheduler, filling, guess, skip, on_step)


def _filled(
    predict_noise: PredictNoise,
    known: Known,
    scheduler: DDIMScheduler,
    filling: Filling,
    guess: Tensor | None = None,
    skip: int = 0,
    on_step: Callable | None = None,
) -> Tensor:
    clean = known.latents
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(filling.seed)).to(clean)
    latents, first = noise, visited_timesteps(scheduler, filling.num_steps)[skip]
    if skip:
        latents = NoisedPath(guess, noise, scheduler.alphas_cumprod).at(first)
    return sample(
        windowed(predict_noise, filling.windows),
        latents,
        scheduler,
        filling.num_steps,
        source=NoisedPath(clean, noise, scheduler.alphas_cumprod),
        mask=(~known.mask)[:, None, None],
        skip=skip,
        on_step=on_step,
    )


def between(latents: Tensor, factor: int) -> Known:
    """A video played `factor` times as slowly, of which every `factor`-th frame is known: (f - 1) * factor + 1 frames.

    latents: (b, c, f, h, w), f at least 2. factor: 2 or more.
    """
    count = latents.shape[2]
    need(factor >= 2, "factor", factor, "a whole number of at least 2")
    if count < 2:
        raise TavError("There is nothing between the frames of a video of one frame; give at least 2.")
    return Known.at(latents, range(0, count * factor, factor), (count - 1) * factor + 1)


def averaged(known: Known) -> Tensor:
    """The video with each unknown frame between two known ones averaged from them by distance, (b, c, f, h, w)."""
    places = known.mask.nonzero().flatten().tolist()
    video = known.latents.clone()
    for before, after in pairwise(places):
        for place in range(before + 1, after):
            share = (place - before) / (after - before)
            video[:, :, place] = known.latents[:, :, before].lerp(known.latents[:, :, after], share)
    return video


def interpolate(
    predictor_of: PredictorOf,
    latents: Tensor,
    factor: int,
    scheduler: DDIMScheduler,
    filling: Filling = Filling(),
    *,
    on_step: Callable | None = None,
) -> Tensor:
    """Makes factor - 1 frames between each two of a video, (b, c, (f - 1) * factor + 1, h, w); see `between`."""
    return fill(predictor_of, between(latents, factor), scheduler, filling, on_step=on_step)


def extend(
    predictor_of: PredictorOf,
    latents: Tensor,
    num_frames: int,
    scheduler: DDIMScheduler,
    filling: Filling = Filling(),
    *,
    backwards: bool = False,
    guess: Tensor | None = None,
    trust: float = 0.0,
    correction: float = 0.0,
    on_step: Callable | None = None,
) -> Tensor:
    """Continues a video by `num_frames`, (b, c, f + num_frames, h, w), its own frames exactly as they were.

    latents: (b, c, f, h, w), f at least 2. They are continued a window at a time, of which half is known from before
    and half is made.
    backwards: what came before instead of what follows.
    guess: (b, c, num_frames, h, w), what the new frames may look like, in order of time. trust: as in `fill`.
    correction: the share of the steps by which each window's new frames are noised and denoised again with no frame
        shown, 0 to below 1, as SinFusion corrects the drift of long continuations by a projector.
    on_step: as in `sample`, counted over all windows.
    """
    need(num_frames >= 1, "frames", num_frames, "at least 1 frame to add")
    need(0 <= trust < 1, "trust", trust, "from 0 to below 1")
    need(0 <= correction < 1, "correction", correction, "from 0 to below 1")
    _check_guess(guess, latents, num_frames)
    length = filling.length(latents)
    kept = length // 2
    made, rounds = length - kept, -(-num_frames // (length - kept))
    start = 0 if guess is None else filling.skipped(trust)
    skip = filling.skipped(1 - correction) if correction else filling.num_steps
    steps = 2 * filling.num_steps - start - skip  # of a window
    video = latents

    def counted(done: int) -> Callable | None:
        return on_step and partial(_counted, on_step, done, rounds * steps)

    for number in range(rounds):
        given, places = (video[:, :, :kept], range(made, length)) if backwards else (video[:, :, -kept:], range(kept))
        known, its = Known.at(given, places, length), replace(filling, seed=filling.seed + number, windows=Windows())
        near = None if guess is None else _around(known, _part_of(guess, number, made, backwards=backwards))
        part = _filled(predictor_of(known), known, scheduler, its, near, start, counted(number * steps))
        if correction:
            blind = predictor_of(Known(known.latents, torch.zeros_like(known.mask)))
            again = replace(its, seed=its.seed + rounds)  # fresh noise, or it would go the same way again
            done = number * steps + filling.num_steps - start
            part = _filled(blind, known, scheduler, again, part, skip, counted(done))
        new = part[:, :, ~known.mask]
        video = torch.cat([new, video] if backwards else [video, new], dim=2)
    count = latents.shape[2] + num_frames
    return video[:, :, -count:] if backwards else video[:, :, :count]


def close_loop(
    predictor_of: PredictorOf,
    latents: Tensor,
    num_frames: int,
    scheduler: DDIMScheduler,
    filling: Filling = Filling(),
    *,
    guess: Tensor | None = None,
    trust: float = 0.0,
    on_step: Callable | None = None,
) -> Tensor:
    """Adds `num_frames` that lead from a video's last frames back to its first, (b, c, f + num_frames, h, w).

    guess: (b, c, num_frames, h, w), what they may look like. trust: as in `fill`.
    Raises TavError if they do not fit into one window with a known frame on either side.
    """
    length = filling.length(latents)
    check_loop(length, num_frames)
    _check_guess(guess, latents, num_frames)
    shown = length - num_frames
    before = shown // 2
    given = torch.cat([latents[:, :, -before:], latents[:, :, : shown - before]], dim=2)
    places = [*range(before), *range(before + num_frames, length)]
    known = Known.at(given, places, length)
    near = None if guess is None else _around(known, guess)
    its = replace(filling, windows=Windows())
    part = fill(predictor_of, known, scheduler, its, guess=near, trust=trust, on_step=on_step)
    return torch.cat([latents, part[:, :, ~known.mask]], dim=2)


def _check_guess(guess: Tensor | None, latents: Tensor, num_frames: int) -> None:
    batch, channels, _, *size = latents.shape
    if guess is not None and guess.shape != (needed := torch.Size((batch, channels, num_frames, *size))):
        raise TavError(f"A guess of {num_frames} new frames has shape {tuple(needed)}, got {tuple(guess.shape)}.")


def _around(known: Known, guess: Tensor) -> Tensor:
    """A window's known frames with the guess in the place of the unknown ones."""
    latents = known.latents.clone()
    latents[:, :, ~known.mask] = guess.to(latents)
    return latents


def _part_of(guess: Tensor, number: int, made: int, *, backwards: bool) -> Tensor:
    """The guess of a window's new frames; beyond its end, its outermost frame again, for what is cut off later."""
    count = guess.shape[2]
    first = count - (number + 1) * made if backwards else number * made
    return guess[:, :, [min(max(place, 0), count - 1) for place in range(first, first + made)]]


def check_loop(length: int, num_frames: int) -> None:
    """Raises TavError if so many new frames do not fit into a window of a length, with a known one on either side."""
    if length < 3:
        raise TavError(f"A loop needs windows of at least 3 frames, one of them new; got {length}.")
    needed = f"from 1 to {length - 2}, to close a loop in a window of {length} frames"
    need(1 <= num_frames <= length - 2, "frames", num_frames, needed)


def _counted(on_step: Callable, done: int, total: int, step: int, _total: int, **values) -> None:
    on_step(done + step, total, **values)
