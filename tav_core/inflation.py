"""How a text-to-image UNet is inflated: what both hosts add, train, store and scale (paper, section 3.2).

One `Inflation` object goes from the options to the network, to the weights file and back. To add a module to each
transformer or residual block, add an entry to ADDITIONS and a field of `Inflation` that turns it on.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor, nn

from .addition import Addition
from .attention import PATTERNS, TemporalAttention
from .errors import TavError, need
from .known_frames import KNOWN_INPUT
from .merge import MERGES, merged
from .temporal_convolution import TEMPORAL_CONVOLUTIONS

GROUP_NORMS = ("video", "frame")
QUERIES = (".attn1.to_q.", ".attn2.to_q.")


def _build_temporal(
    channels: int, heads: int, layers=nn, *, position_bias: bool = False, **placement
) -> dict[str, nn.Module]:
    attn = TemporalAttention(channels, heads, layers, position_bias=position_bias, **placement)
    return {"norm_temp": layers.LayerNorm(channels, **placement), "attn_temp": attn}


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
    if attn.position_bias is not None:
        nn.init.zeros_(attn.position_bias.buckets.weight)


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
BIASED_ATTENTION = replace(TEMPORAL_ATTENTION, build=partial(_build_temporal, position_bias=True))
ADDITIONS = {
    "temporal": (TEMPORAL_ATTENTION,),
    "convolution": TEMPORAL_CONVOLUTIONS,
    "known_frames": (KNOWN_INPUT,),
}
"""By the field of `Inflation` that turns them on."""
LATER = ("position_bias", "convolution", "merge", "queries", "known_frames")
"""Fields that came after the first release; at their defaults, they change nothing about a run."""


@dataclass(frozen=True)
class Inflation:
    """How a network is inflated; the defaults are the paper's. Raises TavError for unknown values.

    attention: the frames that each frame attends to: "sparse-causal" (the first and the previous one, as in the
        paper), "first", "frame" (only itself), "full-causal" (itself and all previous ones) or "full".
    group_norm: "video" computes the residual blocks' statistics over all frames jointly, as the original does;
        "frame" computes them per frame.
    temporal: whether each transformer block ends with temporal attention.
    position_bias: whether temporal attention has a relative position bias, which gives frames an order (Ho et al.
        2022). Positions count from the start of a window.
    convolution: whether a convolution over time follows each convolution of a residual block (Make-A-Video).
    merge: "add" adds what these temporal layers give, as the paper does; "alpha" merges it by a learned share for each
        layer (Video LDM).
    queries: whether the query projections are tuned, as in the paper; without, only the temporal layers are, and the
        image network's own weights stay as they are.
    known_frames: whether the network can be shown frames that are known, and learns to make the others; see `Known`.

    Make-A-Video is `Inflation("frame", "frame", convolution=True)`, Video LDM is `Inflation("frame", "frame",
    convolution=True, merge="alpha", queries=False)`, and Ho et al.'s is `Inflation("frame", "frame",
    position_bias=True, queries=False)`.
    """

    attention: str = "sparse-causal"
    group_norm: str = "video"
    temporal: bool = True
    position_bias: bool = False
    convolution: bool = False
    merge: str = "add"
    queries: bool = True
    known_frames: bool = False

    def __post_init__(self):
        need(self.attention in PATTERNS, "attention", self.attention, f"one of {', '.join(PATTERNS)}")
        need(self.group_norm in GROUP_NORMS, "group_norm", self.group_norm, f"one of {', '.join(GROUP_NORMS)}")
        for name in ("temporal", "position_bias", "convolution", "queries", "known_frames"):
            need(isinstance(getattr(self, name), bool), name, getattr(self, name), "True or False")
        need(self.merge in MERGES, "merge", self.merge, f"one of {', '.join(MERGES)}")
        if self.position_bias and not self.temporal:
            raise TavError("position_bias belongs to temporal attention, which is off; turn temporal on as well.")
        temporal_layers = [addition for addition in self.additions if addition.place != "input"]
        if self.merge == "alpha" and not temporal_layers:
            raise TavError('There is no temporal layer to merge by "alpha"; turn on temporal or convolution.')
        if not self.queries and not temporal_layers:
            raise TavError("Without queries and temporal layers nothing is left to tune; turn one of them on.")

    @classmethod
    def from_metadata(cls, metadata: Mapping) -> "Inflation":
        """Reads its fields from a file's metadata; missing ones have their defaults."""
        return cls(**{field.name: metadata[field.name] for field in fields(cls) if field.name in metadata})

    def as_metadata(self) -> dict[str, str | bool]:
        """The fields as a JSON-serializable dict."""
        return asdict(self)

    def decisive(self) -> dict[str, str | bool]:
        """What determines a result; fields of LATER only where they are set, so that what was kept before stays."""
        own = self.as_metadata()
        return {name: value for name, value in own.items() if name not in LATER or value != getattr(Inflation, name)}

    def as_key(self) -> list:
        """The same as a list for fingerprints, which held values without names before there were fields of LATER."""
        return [f"{name}={value}" if name in LATER else value for name, value in self.decisive().items()]

    @property
    def additions(self) -> list[Addition]:
        """The modules added to the network."""
        added = [addition for field, parts in ADDITIONS.items() if getattr(self, field) for addition in parts]
        if self.position_bias:
            added = [BIASED_ATTENTION if addition is TEMPORAL_ATTENTION else addition for addition in added]
        if self.merge == "alpha":
            return [addition if addition.place == "input" else merged(addition) for addition in added]
        return added

    def trains(self, name: str) -> bool:
        """Whether tuning trains a tensor of this name: a query projection, or a part of an added module."""
        return (self.queries and self.is_difference(name)) or any(addition.trains(name) for addition in self.additions)

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
