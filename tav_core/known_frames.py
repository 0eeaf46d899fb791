"""Known frames: a network that is shown some frames of a video, and makes the others.

The first convolution gets further input channels: the clean latents of the known frames, zero elsewhere, and a mask
that says which they are (Blattmann et al. 2023, "Video LDM", arXiv 2304.08818, section 3.2; frame interpolation of
Singer et al. 2022, "Make-A-Video", arXiv 2209.14792, section 3.3). The weights of these channels start at zero, so that
the network starts as the one it was. Which frames are known is drawn anew at each step of tuning, so that one network
learns what lies in between, what follows and what came before, as SinFusion does with two networks tuned on one video
(Nikankin et al. 2022, arXiv 2211.11743).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from .addition import Addition
from .errors import TavError

CHANNELS = 4  # of the latents of every supported family
SPREADS = (2, 4)
"""Every how many frames one is known, where those in between are learnt."""
TASKS = ("nothing", "spread", "first", "last", "both")
"""What is drawn for a step: no frame is known, every second or fourth, some at the start, some at the end, or both."""


@dataclass(frozen=True, eq=False)
class Known:
    """The frames of a video that are known.

    latents: (b, c, f, h, w), clean; b may be 1 for all samples. Those of unknown frames count for nothing.
    mask: (f,), True for known frames.
    """

    latents: Tensor
    mask: Tensor

    def __post_init__(self):
        if self.latents.ndim != 5 or self.mask.shape != self.latents.shape[2:3]:
            raise TavError(
                f"Known frames need latents (b, c, f, h, w) and a mask (f,), got {tuple(self.latents.shape)} and "
                f"{tuple(self.mask.shape)}."
            )

    @classmethod
    def at(cls, latents: Tensor, places: Sequence[int], num_frames: int) -> "Known":
        """Places known latents (b, c, k, h, w) at these k frames of a video of `num_frames`, whose others are zero."""
        batch, channels, _, *size = latents.shape
        spread = latents.new_zeros(batch, channels, num_frames, *size)
        mask = torch.zeros(num_frames, dtype=torch.bool, device=latents.device)
        spread[:, :, list(places)], mask[list(places)] = latents, True
        return cls(spread, mask)

    def on_frames(self, frames: Sequence[int]) -> "Known":
        """The same for a window of frames; always the same object for the same frames, so that two prompts' predictors
        still run in one batch."""
        frames = tuple(frames)
        if frames not in self._parts:
            self._parts[frames] = Known(self.latents[:, :, list(frames)], self.mask[list(frames)])
        return self._parts[frames]

    @cached_property
    def _parts(self) -> dict[tuple[int, ...], "Known"]:
        return {}

    def as_input(self) -> Tensor:
        """What the added channels see, (b, c + 1, f, h, w)."""
        mask = self.mask.to(self.latents)[:, None, None]
        return torch.cat([self.latents * mask, mask.expand_as(self.latents[:, :1])], dim=1)


def draw_known(num_frames: int, generator: torch.Generator) -> Tensor:
    """Draws which frames of a tuning step are known, (f,) bool; at least one frame is not. See TASKS."""

    def draw(least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (), generator=generator, device=generator.device))

    known = torch.zeros(num_frames, dtype=torch.bool, device=generator.device)
    task, most = TASKS[draw(0, len(TASKS) - 1)], num_frames - 1
    if task == "spread" and most:
        known[:: SPREADS[draw(0, len(SPREADS) - 1)]] = True
    if task in ("first", "both") and most:
        known[: draw(1, max(1, most // (1 + (task == "both"))))] = True
    if task in ("last", "both") and known.sum() < most:
        known[-draw(1, max(1, most // (1 + (task == "both")))) :] = True
    return known


class KnownConvolution(nn.Module):
    """A convolution over the known frames, whose result is added to that of the network's first one.

    given: what it sees, (b, c + 1, f, h, w), b dividing the batch; None where no frame is known, which adds zero.
    layers, placement: as in `Addition.build`.
    """

    def __init__(self, channels: int, layers=nn, **placement):
        super().__init__()
        self.conv = layers.Conv2d(CHANNELS + 1, channels, 3, padding=1, bias=False, **placement)
        self.given: Tensor | None = None

    def forward(self, hidden_states: Tensor, num_frames: int) -> Tensor:
        """(b f) c h w -> (b f) c h w; of the hidden states, only shape, dtype and device count."""
        given = self.given
        if given is None:
            given = hidden_states.new_zeros(1, CHANNELS + 1, num_frames, *hidden_states.shape[-2:])
        samples = len(hidden_states) // num_frames // len(given)
        folded = rearrange(given, "b c f h w -> (b f) c h w").to(hidden_states)
        return repeat(self.conv(folded), "n c h w -> (s n) c h w", s=samples)


def _build(channels: int, _heads: int, layers=nn, **placement) -> dict[str, nn.Module]:
    return {"known": KnownConvolution(channels, layers, **placement)}


def _initialise(parts: Mapping[str, nn.Module], _generator: torch.Generator) -> None:
    nn.init.zeros_(parts["known"].conv.weight)


def _residual(block: nn.Module, hidden_states: Tensor, num_frames: int) -> Tensor:
    return block.known(hidden_states, num_frames)


KNOWN_INPUT = Addition(
    place="input",
    build=_build,
    initialise=_initialise,
    residual=_residual,
    trained="known",
    output="known.conv",
)
