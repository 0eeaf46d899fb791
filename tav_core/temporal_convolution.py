"""Pseudo-3-D convolution (Singer et al. 2022, "Make-A-Video", arXiv 2209.14792, section 3.2.1).

After each spatial convolution, one over time: Conv1D(Conv2D(h) . T) . T. The convolution over time starts as the
identity. Here it is written as the identity plus a convolution that starts at zero, which is the same function, but
lets weight decay pull towards the image network and a strength scale what was tuned.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .addition import Addition

KERNEL = 3  # frames; as wide as the spatial convolutions


class TemporalConvolution(nn.Module):
    """A convolution over the frames at each spatial position. layers, placement: as in `Addition.build`."""

    def __init__(self, channels: int, layers=nn, **placement):
        super().__init__()
        self.conv = layers.Conv2d(channels, channels, (KERNEL, 1), padding=(KERNEL // 2, 0), **placement)

    def forward(self, hidden_states: Tensor, num_frames: int) -> Tensor:
        """(b f) c h w -> (b f) c h w."""
        # in channels-last memory, a video as an image with a row per frame copies nothing
        rows = rearrange(hidden_states, "(b f) c h w -> b c f (h w)", f=num_frames)
        return rearrange(self.conv(rows), "b c f (h w) -> (b f) c h w", h=hidden_states.shape[-2])


def _build(name: str, channels: int, _heads: int, layers=nn, **placement) -> dict[str, nn.Module]:
    return {name: TemporalConvolution(channels, layers, **placement)}


def _initialise(name: str, parts: Mapping[str, nn.Module], _generator: torch.Generator) -> None:
    nn.init.zeros_(parts[name].conv.weight)
    nn.init.zeros_(parts[name].conv.bias)


def _residual(name: str, block: Any, hidden_states: Tensor, num_frames: int) -> Tensor:
    return getattr(block, name)(hidden_states, num_frames)


def _after(layer: str) -> Addition:
    name = f"{layer}_temp"
    return Addition(
        place="resnet",
        build=partial(_build, name),
        initialise=partial(_initialise, name),
        residual=partial(_residual, name),
        trained=name,
        output=f"{name}.conv",
        layer=layer,
    )


TEMPORAL_CONVOLUTIONS = (_after("conv1"), _after("conv2"))
"""One after each of a residual block's two spatial convolutions."""
