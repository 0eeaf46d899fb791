"""What an edit keeps from its source: the clip's own path through the noise, and what the edit borrows along it.

In the first part of the steps the network also sees the *source*: the clip's latents at that noise level, from the
trajectory of its inversion. What some layers compute for it takes the place of what they compute for the edit
(Tumanyan et al. 2023, arXiv 2211.12572; Hertz et al. 2022, arXiv 2208.01626). Only the trajectory is stored, and the
source never drifts from the clip (as in Ju et al. 2023, arXiv 2310.01506).
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from .borrow import Loan
from .errors import TavError, need
from .layout import Layout
from .prediction import PredictNoise

SAME = 1e-4  # relative difference up to which two noise levels are the same; two timesteps differ by 2e-3 or more


@dataclass(frozen=True, eq=False)
class SourcePath:
    """A clip's latents at each noise level that its inversion passed through.

    trajectory: (n + 1, ...), clean latents first, as `invert` returns it.
    timesteps: the n timesteps of all but the clean latents, ascending, each 0..999.
    alphas_cumprod: (1000,), the schedule's.
    """

    trajectory: Tensor
    timesteps: Sequence[int]
    alphas_cumprod: Tensor
    _between: dict[float, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        if len(self.trajectory) != len(self.timesteps) + 1 or len(self.trajectory) < 2:
            raise TavError(
                f"A trajectory needs one timestep for each of its latents but the first, and at least one, got "
                f"{len(self.trajectory)} latents and {len(self.timesteps)} timesteps."
            )

    @property
    def clean(self) -> Tensor:
        """The clip's own latents, (...)."""
        return self.trajectory[0]

    def at(self, timestep: int) -> Tensor:
        """The clip's latents at a timestep, (...); see `at_sigma`."""
        return self.at_sigma(self._sigma(timestep))

    def at_sigma(self, sigma: float) -> Tensor:
        """The clip's latents at a noise level sigma = sqrt((1 - a) / a), (...).

        Between two visited levels they lie on the line that a DDIM step follows: z / sqrt(a) is linear in sigma (Song
        et al. 2021, arXiv 2010.02502, equation 14). Beyond the last, the line goes on.
        """
        # the clean latents count as being at the schedule's first level
        sigmas = [self._sigma(0), *self.sigmas]
        upper = min(bisect_left(sigmas, sigma * (1 - SAME), lo=1), len(sigmas) - 1)
        if math.isclose(sigmas[upper], sigma, rel_tol=SAME):
            return self.trajectory[upper]
        if sigma not in self._between:  # once for all windows of a step
            self._between.clear()
            self._between[sigma] = self._interpolated(sigma, sigmas, upper)
        return self._between[sigma]

    def _interpolated(self, sigma: float, sigmas: Sequence[float], upper: int) -> Tensor:
        share = (sigma - sigmas[upper - 1]) / (sigmas[upper] - sigmas[upper - 1])
        below, above = (self.trajectory[i] * (1 + sigmas[i] ** 2) ** 0.5 for i in (upper - 1, upper))
        return below.lerp(above, share) / (1 + sigma**2) ** 0.5

    @cached_property
    def sigmas(self) -> list[float]:
        """The noise level of each timestep."""
        return [self._sigma(timestep) for timestep in self.timesteps]

    def _sigma(self, timestep: int) -> float:
        alpha = self.alphas_cumprod[timestep].double().item()
        return ((1 - alpha) / alpha) ** 0.5


@dataclass(frozen=True, eq=False)
class NoisedPath:
    """A video's latents at any noise level, all with one noise, as tuning makes them; serves as `SourcePath` does.

    clean, noise: (b, c, f, h, w). alphas_cumprod: (1000,), the schedule's.
    """

    clean: Tensor
    noise: Tensor
    alphas_cumprod: Tensor

    def at(self, timestep: int) -> Tensor:
        """The latents at a timestep, 0..999."""
        alpha = self.alphas_cumprod[timestep].to(self.clean)
        return alpha.sqrt() * self.clean + (1 - alpha).sqrt() * self.noise


@dataclass(frozen=True)
class Dials:
    """How much an edit keeps from its source; each is a share of the steps, 0 (nothing) to 1.

    Steps are counted as the inversion took them, so that a run in two parts keeps what one run would.

    structure: for how long the edit borrows the source's features.
    layout: for how long words that both prompts share stay where the source has them.
    """

    structure: float = 0.0
    layout: float = 0.0

    def __post_init__(self):
        need(0 <= self.structure <= 1, "keep_structure", self.structure, "from 0 to 1")
        need(0 <= self.layout <= 1, "keep_layout", self.layout, "from 0 to 1")

    def at(self, level: float, levels: Sequence[float]) -> "Dials":
        """The dials at a noise level, where an inversion passed through these: what has ended is 0.

        Levels are timesteps or sigmas; both rise with the noise.
        """
        done = sum(one > level * (1 + SAME) for one in levels)
        ended = {name: done >= round(getattr(self, name) * len(levels)) for name in ("structure", "layout")}
        return Dials(*(0.0 if ended[name] else getattr(self, name) for name in ("structure", "layout")))

    def __bool__(self) -> bool:
        return bool(self.structure or self.layout)


class Lender:
    """Lends the edit what the network computes for the source at the same timestep.

    loan: over the network that both predictors use. predict_source: with the source's prompt.
    """

    def __init__(self, loan: Loan, predict_source: PredictNoise, path: SourcePath, dials: Dials):
        self.loan, self.predict_source, self.path, self.dials = loan, predict_source, path, dials
        self._recorded: tuple[int, tuple[int, ...] | None] | None = None

    def borrowing(self, predict: PredictNoise, layout: Layout | None = None) -> PredictNoise:
        """The predictor, with what it borrows. layout: how the prompt's words align with the source's; None for one
        that shares no words, such as a negative prompt."""
        return _Borrowing(self, predict, self.predict_source, layout)

    def record(self, predict_source: PredictNoise, frames: tuple[int, ...] | None, like: Tensor, timestep: int) -> None:
        """Shows the network the source at a timestep, once for all predictors. frames: those of a window, or all."""
        if self._recorded == (timestep, frames) and self.loan.kept:
            return
        dials, source = self.dials.at(timestep, self.path.timesteps), self.path.at(timestep)
        source = source if frames is None else source[:, :, list(frames)]
        with self.loan.recording(bool(dials.structure), bool(dials.layout)):
            predict_source(source.to(like), timestep)
        self._recorded = timestep, frames


@dataclass(frozen=True, eq=False)
class _Borrowing:
    """A predictor of all frames, or of a window's, that borrows from the same frames of the source."""

    lender: Lender
    predict: PredictNoise
    predict_source: PredictNoise
    layout: Layout | None
    frames: tuple[int, ...] | None = None

    def __call__(self, latents: Tensor, timestep: int) -> Tensor:
        lender = self.lender
        dials = lender.dials.at(timestep, lender.path.timesteps)
        if not dials:
            lender.loan.forget()
            return self.predict(latents, timestep)
        lender.record(self.predict_source, self.frames, latents, timestep)
        with lender.loan.lending(bool(dials.structure), self.layout if dials.layout else None):
            return self.predict(latents, timestep)

    def on_frames(self, frames: Sequence[int]) -> "_Borrowing":
        predict, source = self.predict.on_frames(frames), self.predict_source.on_frames(frames)
        return _Borrowing(self.lender, predict, source, self.layout, tuple(frames))
