"""A module that inflation adds to each block of a network, described once for both hosts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PLACES = {"transformer": "attn1.to_q", "resnet": "conv2", "input": ""}
"""The kinds of block that a module can be added to, each with the layer that identifies it in diffusers' UNet and has
as many output channels as the block. The input is the network's first convolution."""
INPUT = "conv_in"
LAYERS = ("", "conv1", "conv2")
"""Where in a block a module can be added: to the block's own output, or to that of one of its layers, by the name of
the layer in diffusers."""


def block_with(weight: str, place: str) -> str | None:
    """The path of the block that a weight of this name, a module path of diffusers, shows to be of a place, if any."""
    if place == "input":
        return INPUT if weight == f"{INPUT}.weight" else None
    end = f".{PLACES[place]}.weight"
    return weight.removesuffix(end) if weight.endswith(end) else None


@dataclass(frozen=True)
class Addition:
    """A module added to every block of a kind; its result is added to the output of the block or of one of its layers.

    place: one of PLACES.
    build: (channels, heads, layers, **placement) -> its parts by name, which become attributes of the block. `layers`
        is torch.nn or a host's own version of it; `placement` is the device and dtype of the layers.
    initialise: (parts by name, generator), in place, so that the module initially adds zero.
    residual: (block, hidden_states, num_frames) -> what is added; `block` holds the parts as attributes.
    trained: the part that is trained and stored; the other parts are norms that stay at the identity.
    output: its layer that a strength scales.
    layer: one of LAYERS.
    """

    place: str
    build: Callable[..., dict[str, nn.Module]]
    initialise: Callable[[Mapping[str, nn.Module], torch.Generator], None]
    residual: Callable[[Any, Tensor, int], Tensor]
    trained: str
    output: str
    layer: str = ""

    def trains(self, name: str) -> bool:
        """Whether a tensor of this name (a module path of diffusers) belongs to the trained part."""
        return f".{self.trained}." in name

    def shapes(self, channels: int, heads: int) -> dict[str, torch.Size]:
        """The shapes of the trained tensors in one block, by name."""
        part = self.build(channels, heads, nn, device="meta")[self.trained]
        return {f"{self.trained}.{name}": tensor.shape for name, tensor in part.named_parameters()}
