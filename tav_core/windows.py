"""Windows of frames: a clip of any length, in as much of the network's memory as one window takes.

A window is a list of frame numbers: the clip's first frame, which sparse-causal attention needs (paper, section 3.2),
then consecutive ones. Neighbouring windows overlap, and their predictions are fused at every step, as MultiDiffusion
fuses those of overlapping crops (Bar-Tal et al. 2023, arXiv 2302.08113).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from .errors import TavError, need
from .prediction import PredictNoise


@dataclass(frozen=True)
class Windows:
    """How a clip is divided into windows.

    length: frames of a window, the clip's first included; at least 2, and 0 for one window of the whole clip.
    overlap: how many frames two neighbouring windows share besides the first, 0 to length - 2.
    """

    length: int = 0
    overlap: int = 0

    def __post_init__(self):
        for name in ("length", "overlap"):
            whole = isinstance(getattr(self, name), Integral) and not isinstance(getattr(self, name), bool)
            need(whole, {"length": "window"}.get(name, name), getattr(self, name), "a whole number of frames")
        need(self.length == 0 or self.length >= 2, "window", self.length, "at least 2 frames, or 0 for the whole clip")
        most = max(0, self.length - 2)
        need(0 <= self.overlap <= most, "overlap", self.overlap, f"from 0 to {most}, below a window's frames")

    def check(self, num_frames: int) -> None:
        """Raises TavError if a window is longer than the clip."""
        if self.length > num_frames:
            most = f"give at most {num_frames}, or " if num_frames > 1 else ""
            raise TavError(
                f"The window has {self.length} frames, but the clip has only {num_frames}; {most}do without windows."
            )

    def divides(self, num_frames: int) -> bool:
        """Whether a clip of so many frames is divided at all."""
        return 0 < self.length < num_frames

    def over(self, num_frames: int) -> list[list[int]]:
        """The windows of a clip, in order; all have `length` frames, so the last may overlap more."""
        if not self.divides(num_frames):
            return [list(range(num_frames))]
        consecutive = self.length - 1
        starts = range(1, num_frames - consecutive, consecutive - self.overlap)
        return [[0, *range(start, start + consecutive)] for start in (*starts, num_frames - consecutive)]

    def drawn(self, num_frames: int, generator: torch.Generator) -> list[int] | None:
        """A random window, to tune on; None, and nothing is drawn, if the clip is not divided."""
        if not self.divides(num_frames):
            return None
        consecutive = self.length - 1
        last = num_frames - consecutive
        start = int(torch.randint(1, last + 1, (), generator=generator, device=generator.device))
        return [0, *range(start, start + consecutive)]

    def weights(self, frames: Sequence[int]) -> list[float]:
        """How much each frame of a window counts: by its distance from the window's ends. The clip's first counts in
        the first window alone, where the frames that follow it are."""
        count = len(frames) - 1
        rising = [float(min(place + 1, count - place)) for place in range(count)]
        return [1.0 if count == 0 or frames[1] == 1 else 0.0, *rising]


def windowed(predict_noise: PredictNoise, windows: Windows) -> PredictNoise:
    """Predicts the noise of a clip window by window, and fuses it.

    predict_noise: a `NoisePredictor`, or what `guided` and `Lender.borrowing` made of some: each can be asked
        `on_frames(frames)` for its predictor of these frames alone, with their own prompts, control images and
        borrowed features.
    """
    kept: dict[int, list] = {}

    def predict(latents: Tensor, timestep: int) -> Tensor:
        count = latents.shape[2]
        if not windows.divides(count):
            return predict_noise(latents, timestep)
        if count not in kept:
            kept[count] = [(frames, predict_noise.on_frames(frames)) for frames in windows.over(count)]
        total, counted = torch.zeros_like(latents), latents.new_zeros(count)
        for frames, predict_window in kept[count]:
            weights = latents.new_tensor(windows.weights(frames))
            total[:, :, frames] += weights[:, None, None] * predict_window(latents[:, :, frames], timestep)
            counted[frames] += weights
        return total / counted[:, None, None]

    return predict


def per_window(windows: Windows, num_frames: int, of_window: Callable[[list[int]], Tensor]) -> Tensor:
    """Joins what `of_window(frames)` gives for each window, (f, ...): of each frame, from where it counts most."""
    parts: dict[int, tuple[float, Tensor]] = {}
    for frames in windows.over(num_frames):
        for frame, weight, part in zip(frames, windows.weights(frames), of_window(frames), strict=True):
            if frame not in parts or weight > parts[frame][0]:
                parts[frame] = weight, part
    return torch.stack([parts[frame][1] for frame in range(num_frames)])
