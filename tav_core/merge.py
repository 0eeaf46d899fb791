"""Merging by a learned alpha (Blattmann et al. 2023, "Align your Latents" or Video LDM, arXiv 2304.08818, section 3.1).

z' = alpha z + (1 - alpha) z_temporal, with an alpha of its own for each temporal layer. Our temporal layers are
residual, z_temporal = z + r(z), so that z' = z + (1 - alpha) r(z). At alpha = 1, the temporal layer is skipped.

The start must be the image network and must still train. With alpha = 1 nothing would get a gradient, and with alpha
just below 1 the start is only nearly the image network. But where r starts at zero, as in every `Addition`, the start
is exact at any alpha; so alpha starts in the middle, as in diffusers, and the first step trains r.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .addition import Addition

MERGES = ("add", "alpha")
"""How the output of a temporal layer is merged with its input: as a plain residual, or by a learned alpha."""


class Alpha(nn.Module):
    """The learned share of the input in a merged layer, kept in 0..1: alpha = sigmoid(weight), as in diffusers.

    A module without children, as hosts move other parameters between devices only along with a layer.
    """

    def __init__(self, device=None, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))

    def forward(self, like: Tensor) -> Tensor:
        """(1,), on the device and in the dtype of another tensor."""
        return self.weight.to(like.device).sigmoid().to(like.dtype)


def merged(addition: Addition) -> Addition:
    """The same module, merged by an alpha that is trained and stored with it."""
    parts = (_build, _initialise, _residual)
    build, initialise, residual = (partial(part, addition) for part in parts)
    return replace(addition, build=build, initialise=initialise, residual=residual)


def _build(addition: Addition, channels: int, heads: int, layers=nn, **placement) -> dict[str, nn.Module]:
    parts = addition.build(channels, heads, layers, **placement)
    parts[addition.trained].alpha = Alpha(**placement)
    return parts


def _initialise(addition: Addition, parts: Mapping[str, nn.Module], generator: torch.Generator) -> None:
    addition.initialise(parts, generator)
    nn.init.zeros_(parts[addition.trained].alpha.weight)


def _residual(addition: Addition, block: Any, hidden_states: Tensor, num_frames: int) -> Tensor:
    residual = addition.residual(block, hidden_states, num_frames)
    return (1 - getattr(block, addition.trained).alpha(residual)) * residual
