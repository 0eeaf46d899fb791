"""What frames are added to a video: those in between, or those that follow, came before, or close a loop."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import TavError, need
from ..fill import averaged, between, check_loop, close_loop, extend, fill
from ..video.continuation import continued_by_flow
from ..video.flow import interpolated_by_flow
from ..windows import Windows

if TYPE_CHECKING:
    from .filling import FillingRun

GUESSES = ("flow", "average", "none")
CONTINUED = ("flow", "none")
DIRECTIONS = ("onwards", "backwards", "loop")


@dataclass(frozen=True)
class Filled:
    """What a network made of a video and its new frames: latents (1, c, f, h, w).

    guess, images: where the network only corrects pixels, the latents that it started from, and a function that gives
    the new frames' images (h, w, 3) that these were encoded from.
    """

    latents: Tensor
    guess: Tensor | None = None
    images: Callable[[], Iterator[Tensor]] | None = None

    def new_frames(self, new: list[int], decoded: Callable[[Tensor], Iterator[Tensor]]) -> Iterator[Tensor]:
        """The images (h, w, 3) in 0..1 of the frames with these numbers.

        Corrected pixels are the guess's, and what the network changed of them: what the VAE loses of both is the same,
        and so is not lost.
        """
        made = decoded(self.latents[:, :, new])
        if self.images is None:
            yield from made
            return
        for after, before, image in zip(made, decoded(self.guess[:, :, new]), self.images(), strict=True):
            yield (image.to(after) + after - before).clamp(0, 1)


@dataclass(frozen=True)
class Between:
    """Frames in between, so that a video has `factor` times as many a second, 2 to 8.

    guess: what new frames are made from: "flow" (both neighbours warped along their optical flow), "average" of both,
        or "none", which starts from noise. trust: the share of the steps that the guess replaces, 0 to below 1.
    """

    factor: int = 2
    guess: str = "flow"
    trust: float = 0.95

    def __post_init__(self):
        need(2 <= self.factor <= 8, "factor", self.factor, "a whole number from 2 to 8")
        need(self.guess in GUESSES, "guess", self.guess, f"one of {', '.join(GUESSES)}")
        need(0 <= self.trust < 1, "trust", self.trust, "from 0 to below 1")

    def check(self, num_frames: int, windows: Windows) -> None:
        """Raises TavError for a video of one frame, and for a window longer than the result."""
        if num_frames < 2:
            raise TavError("There is nothing between the frames of a video of one frame; give at least 2.")
        count = len(self.places(num_frames))
        if windows.length > count:
            raise TavError(
                f"The window has {windows.length} frames, but {num_frames} become only {count}; give at most {count}."
            )

    def places(self, num_frames: int) -> list[int | None]:
        """For each frame of the result, which of the video's own it is; None for a new one."""
        count = (num_frames - 1) * self.factor + 1
        return [None if place % self.factor else place // self.factor for place in range(count)]

    def fps(self, fps: float) -> float:
        return fps * self.factor

    def seen(self, num_frames: int, windows: Windows) -> int:
        """How many frames the network sees at once."""
        count = len(self.places(num_frames))
        return min(windows.length or count, count)

    def overlap(self, length: int) -> int:
        """So many frames that every new one has both of its neighbours in some window."""
        return max(0, min(max(length // 4, self.factor), length - 2))

    def latents(self, run: "FillingRun", on_step: Callable | None) -> Filled:
        known, guess, images = between(run.encoded, self.factor), None, None
        if self.guess == "flow" and run.filling.skipped(self.trust):
            guess, images = known.latents.clone(), partial(self._by_flow, run.clip.frames)
            guess[:, :, ~known.mask] = _encoded(run, images(), on_step).to(guess)
        elif self.guess == "average":
            guess = averaged(known)
        options = {"guess": guess, "trust": self.trust, "on_step": on_step and partial(on_step, part="frames")}
        made = fill(run.predictor, known, run.checkpoint.scheduler, run.filling, **options)
        return Filled(made, guess if images else None, images)

    def _by_flow(self, frames: Tensor) -> Iterator[Tensor]:
        made = interpolated_by_flow(frames, self.factor)
        return (frame for place, frame in enumerate(made) if place % self.factor)


@dataclass(frozen=True)
class Onwards:
    """More frames after a video, before it ("backwards"), or back to its first frame ("loop").

    frames: how many, 1 or more. correction: as in `extend`.
    guess: what new frames are made from: "flow" (what moves goes on as it did, see `continued_by_flow`), or "none",
        which starts from noise. trust: the share of the steps that the guess replaces, 0 to below 1.
    """

    frames: int
    direction: str = "onwards"
    correction: float = 0.0
    guess: str = "flow"
    trust: float = 0.6

    def __post_init__(self):
        need(self.frames >= 1, "frames", self.frames, "at least 1 frame to add")
        need(self.direction in DIRECTIONS, "direction", self.direction, f"one of {', '.join(DIRECTIONS)}")
        need(0 <= self.correction < 1, "correction", self.correction, "from 0 to below 1")
        need(self.guess in CONTINUED, "guess", self.guess, f"one of {', '.join(CONTINUED)}")
        need(0 <= self.trust < 1, "trust", self.trust, "from 0 to below 1")
        if self.correction and self.direction == "loop":
            raise TavError("A loop is made in one window, so there is no drift to correct; leave out the correction.")

    def check(self, num_frames: int, windows: Windows) -> None:
        """Raises TavError for a video of one frame, and for a loop that does not fit into a window."""
        if num_frames < 2:
            raise TavError("A continuation needs at least 2 frames to go on from, got 1.")
        windows.check(num_frames)
        if self.direction == "loop":
            check_loop(self.seen(num_frames, windows), self.frames)

    def places(self, num_frames: int) -> list[int | None]:
        own, new = list(range(num_frames)), [None] * self.frames
        return [*new, *own] if self.direction == "backwards" else [*own, *new]

    def fps(self, fps: float) -> float:
        return fps

    def seen(self, num_frames: int, windows: Windows) -> int:
        return min(windows.length or num_frames, num_frames)

    def overlap(self, length: int) -> int:
        return 0

    def latents(self, run: "FillingRun", on_step: Callable | None) -> Filled:
        given, guess = (run.predictor, run.encoded, self.frames, run.checkpoint.scheduler, run.filling), None
        if self.guess == "flow" and run.filling.skipped(self.trust):
            frames = continued_by_flow(run.clip.frames, self.frames, self.direction)
            guess = _encoded(run, frames, on_step)
        options = {"guess": guess, "trust": self.trust, "on_step": on_step and partial(on_step, part="frames")}
        if self.direction == "loop":
            return Filled(close_loop(*given, **options))
        backwards = self.direction == "backwards"
        return Filled(extend(*given, backwards=backwards, correction=self.correction, **options))


def _encoded(run: "FillingRun", frames: Iterable[Tensor], on_step: Callable | None) -> Tensor:
    """A guess of the new frames, each (h, w, 3), as latents (1, c, f, h, w)."""
    parts = []
    for frame in frames:
        parts.append(run.checkpoint.encode_video(frame[None]))
        if on_step:
            on_step(len(parts), run.added, part="guess")
    return torch.cat(parts, dim=2)
