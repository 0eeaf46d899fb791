"""How a text-to-image UNet is inflated: what both hosts add, train, store and scale (paper, section 3.2).

One `Inflation` object goes from the options to the network, to the weights file and back. To add a module to each
transformer or residual block, add an entry to ADDITIONS and a field of `Inflation` that turns it on.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from .attention import PATTERNS, TemporalAttention
from .errors import need

GROUP_NORMS = ("video", "frame")
QUERIES = (".attn1.to_q.", ".attn2.to_q.")
PLACES = {"transformer": "attn1.to_q", "resnet": "conv2"}
"""The kinds of block that a module can be added to, each with the layer that identifies it in diffusers' UNet and has
as many output channels as the block."""


@dataclass(frozen=True)
class Addition:
    """A module added to every block of a kind; its result is added to the block's output.

    place: one of PLACES.
    build: (channels, heads, layers, **placement) -> its parts by name, which become attributes of the block. `layers`
        is torch.nn or a host's own version of it; `placement` is the device and dtype of the layers.
    initialise: (parts by name, generator), in place, so that the module initially adds zero.
    residual: (block, hidden_states, num_frames) -> what is added; `block` holds the parts as attributes.
    trained: the part that is trained and stored; the other parts are norms that stay at the identity.
    output: its layer that a strength scales.
    """

    place: str
    build: Callable[..., dict[str, nn.Module]]
    initialise: Callable[[Mapping[str, nn.Module], torch.Generator], None]
    residual: Callable[[Any, Tensor, int], Tensor]
    trained: str
    output: str

    def trains(self, name: str) -> bool:
        """Whether a tensor of this name (a module path of diffusers) belongs to the trained part."""
        return f".{self.trained}." in name

    def shapes(self, channels: int, heads: int) -> dict[str, torch.Size]:
        """The shapes of the trained tensors in one block, by name."""
        part = self.build(channels, heads, nn, device="meta")[self.trained]
        return {f"{self.trained}.{name}": tensor.shape for name, tensor in part.named_parameters()}


def _build_temporal(channels: int, heads: int, layers=nn, **placement) -> dict[str, nn.Module]:
    norm = layers.LayerNorm(channels, **placement)
    return {"norm_temp": norm, "attn_temp": TemporalAttention(channels, heads, layers, **placement)}


def _initialise_temporal(parts: Mapping[str, nn.Module], generator: torch.Generator) -> None:
    """Makes the block start as the identity. The original zeroes the output's weight but leaves its bias random, so its
    freshly inflated network differs from the pretrained one; here both are zero."""
    parts["norm_temp"].reset_parameters()
    attn = parts["attn_temp"]
    for projection in (attn.to_q, attn.to_k, attn.to_v):
        initial = torch.empty(projection.weight.shape, device=generator.device)
        nn.init.kaiming_uniform_(initial, a=math.sqrt(5), generator=generator)  # nn.Linear's own default
        projection.weight.data.copy_(initial)
    nn.init.zeros_(attn.to_out[0].weight)
    nn.init.zeros_(attn.to_out[0].bias)


def _temporal_residual(block: nn.Module, hidden_states: Tensor, num_frames: int) -> Tensor:
    return block.attn_temp(block.norm_temp(hidden_states), num_frames)


TEMPORAL_ATTENTION = Addition(
    place="transformer",
    build=_build_temporal,
    initialise=_initialise_temporal,
    residual=_temporal_residual,
    trained="attn_temp",
    output="attn_temp.to_out",
)
ADDITIONS = {"temporal": TEMPORAL_ATTENTION}
"""By the field of `Inflation` that turns each on."""


@dataclass(frozen=True)
class Inflation:
    """How a network is inflated; the defaults are the paper's. Raises TavError for unknown values.

    attention: the frames that each frame attends to: "sparse-causal" (the first and the previous one, as in the
        paper), "first", "frame" (only itself), "full-causal" (itself and all previous ones) or "full".
    group_norm: "video" computes the residual blocks' statistics over all frames jointly, as the original does;
        "frame" computes them per frame.
    temporal: whether each transformer block ends with temporal attention.
    """

    attention: str = "sparse-causal"
    group_norm: str = "video"
    temporal: bool = True

    def __post_init__(self):
        need(self.attention in PATTERNS, "attention", self.attention, f"one of {', '.join(PATTERNS)}")
        need(self.group_norm in GROUP_NORMS, "group_norm", self.group_norm, f"one of {', '.join(GROUP_NORMS)}")
        need(isinstance(self.temporal, bool), "temporal", self.temporal, "True or False")

    @classmethod
    def from_metadata(cls, metadata: Mapping) -> "Inflation":
        """Reads its fields from a file's metadata; missing ones have their defaults."""
        return cls(**{field.name: metadata[field.name] for field in fields(cls) if field.name in metadata})

    def as_metadata(self) -> dict[str, str | bool]:
        """The fields as a JSON-serializable dict."""
        return asdict(self)

    @property
    def additions(self) -> list[Addition]:
        """The modules added to the network."""
        return [addition for field, addition in ADDITIONS.items() if getattr(self, field)]

    def trains(self, name: str) -> bool:
        """Whether tuning trains a tensor of this name: a query projection, or a part of an added module."""
        return self.is_difference(name) or any(addition.trains(name) for addition in self.additions)

    def is_difference(self, name: str) -> bool:
        """Whether a trained tensor is stored as its difference from the base, as query projections are."""
        return any(part in name for part in QUERIES)

    def at_strength(self, name: str, tensor: Tensor, strength: float, base: Tensor | None) -> Tensor:
        """The tensor to load at a strength for a stored one. A difference is scaled and added to the base; of an added
        module, only the output layer is scaled, which scales everything the module adds."""
        if self.is_difference(name):
            return base.to(tensor) + strength * tensor
        scaled = any(f".{addition.output}." in name for addition in self.additions)
        return strength * tensor if scaled else tensor


def difference_names(names: Iterable[str]) -> list[str]:
    """The names of those tensors that are stored as differences from the base."""
    return [name for name in names if Inflation().is_difference(name)]
