"""Attention across the frames of a video: which frames each frame attends to, and the attention processors.

All batches here are `(b f)`: the frames of the first sample, then those of the next.
"""

from __future__ import annotations  # `Attention` is only an annotation, and diffusers is slow to import

from collections.abc import Callable
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .errors import TavError, shown
from .position_bias import RelativePositionBias

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

PATTERNS = ("sparse-causal", "first", "frame", "full-causal", "full")


def attended_frames(pattern: str, num_frames: int) -> list[tuple[int, ...]]:
    """Lists, for each frame, the frames it attends to, without repeats.

    "sparse-causal" is the paper's pattern (section 3.2): the first and the previous frame. Where the paper's
    [z_1; z_(i-1)] contains a frame twice, listing it once gives the same softmax average for half the work.
    """
    frames = range(num_frames)
    if pattern == "sparse-causal":
        return [(0,) if i < 2 else (0, i - 1) for i in frames]
    if pattern == "first":
        return [(0,) for _ in frames]
    if pattern == "frame":
        return [(i,) for i in frames]
    if pattern == "full-causal":
        return [tuple(range(i + 1)) for i in frames]
    if pattern == "full":
        return [tuple(frames) for _ in frames]
    raise TavError(f"Unknown attention pattern {shown(pattern)}; choose one of {', '.join(PATTERNS)}.")


def attend_across_frames(
    query: Tensor, key: Tensor, value: Tensor, attended: list[tuple[int, ...]], attend: Callable[..., Tensor]
) -> Tensor:
    """Lets the tokens of each frame attend to those of its `attended` frames, as `attended_frames` lists them.

    query: (b f) n c; key, value: (b s) n c, of the first s frames, up to the last attended one; returns (b f) n c.
    attend: the host's attention function, (query, key, value) -> output, each (batch, tokens, channels).
    """
    calls = _calls(attended)
    query = rearrange(query, "(b f) n c -> b f n c", f=len(attended))
    keys, values = (_split(rearrange(x, "(b s) n c -> b s n c", b=len(query)), calls) for x in (key, value))
    queries, outputs = query.split([call.size * len(call.seen) for call in calls], dim=1), []
    for call, each in zip(calls, queries, strict=True):
        output = attend(
            rearrange(each, "b (g a) n c -> (b g) (a n) c", a=call.size), _gather(keys, call), _gather(values, call)
        )
        outputs.append(rearrange(output, "(b g) (a n) c -> b (g a) n c", b=len(query), a=call.size))
    return rearrange(torch.cat(outputs, dim=1), "b f n c -> (b f) n c")


class _Call(NamedTuple):
    """Consecutive groups of frames that share a call. size: frames in a group; seen: what each group attends to."""

    size: int
    seen: list[tuple[int, ...]]

    def spans(self) -> list[tuple[int, int]]:
        """From where to where frames are needed one after the other: of a single group, or of all, one of each."""
        numbers = self.seen if len(self.seen) == 1 else zip(*self.seen, strict=True)
        return [(min(each), max(each) + 1) for each in numbers]


def _calls(attended: list[tuple[int, ...]]) -> list[_Call]:
    """Consecutive frames that attend to the same frames form a group; consecutive groups of equal shape, a call."""
    groups = [(seen, len(list(members))) for seen, members in groupby(attended)]
    equal = groupby(groups, key=lambda group: (group[1], len(group[0])))
    return [_Call(size, [seen for seen, _ in members]) for (size, _), members in equal]


def _split(frames: Tensor, calls: list[_Call]) -> dict[int, Tensor]:
    """Splits the frames (b s n c) where a span of any call starts or ends; each part by the number of its first."""
    cuts = sorted({0, frames.shape[1], *(cut for call in calls for span in call.spans() for cut in span)})
    return dict(zip(cuts[:-1], frames.split([end - start for start, end in pairwise(cuts)], dim=1), strict=True))


def _gather(parts: dict[int, Tensor], call: _Call) -> Tensor:
    """The tokens of the frames that each of a call's groups attends to: (b g) (k n) c.

    They are copied only where a group attends to several that are not in one part.
    """
    spans = [_cat([part for cut, part in parts.items() if start <= cut < end], dim=1) for start, end in call.spans()]
    if len(call.seen) == 1:
        return _cat(spans, dim=1).flatten(1, 2)
    return _cat([span.expand(-1, len(call.seen), -1, -1) for span in spans], dim=2).flatten(0, 1)


def _cat(tensors: list[Tensor], dim: int) -> Tensor:
    """Concatenates tensors, and gives a single one as it is."""
    return torch.cat(tensors, dim) if len(tensors) > 1 else tensors[0]


def attend_heads(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head scaled dot-product attention on (batch, tokens, heads * width)."""
    query, key, value = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(query, key, value), "b h n d -> b n (h d)")


class FrameCount:
    """The number of frames per sample of the current batch; all parts of an inflated network share one object."""

    def __init__(self) -> None:
        self.num_frames = 1


class FrameAttnProcessor:
    """Self-attention (`attn1`) in which each frame attends to the frames given by `pattern` (paper, section 3.2)."""

    def __init__(self, pattern: str, count: FrameCount):
        self.pattern, self.count = pattern, count

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: None = None, attention_mask: None = None
    ) -> Tensor:
        attended = attended_frames(self.pattern, self.count.num_frames)
        reach = 1 + max(max(frames) for frames in attended)  # no frame attends to later ones
        seen = rearrange(hidden_states, "(b f) n c -> b f n c", f=len(attended))[:, :reach].flatten(0, 1)
        query, key, value = attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen)
        hidden_states = attend_across_frames(
            query, key, value, attended, lambda q, k, v: attend_heads(q, k, v, attn.heads)
        )
        return attn.to_out[1](attn.to_out[0](hidden_states))


class TextAttnProcessor:
    """Cross-attention (`attn2`) to the prompt; keys and values are computed once per prompt, not once per frame.

    encoder_hidden_states: one prompt per sample, (b, n, d), or one per frame, ((b f), n, d).
    attend: (query, key, value, heads) -> output, of queries (t, f n, c) and keys (t, w, c).
    """

    def __init__(self, attend: Callable[..., Tensor] = attend_heads):
        self.attend = attend

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None
    ) -> Tensor:
        tokens = hidden_states.shape[1]
        query = rearrange(attn.to_q(hidden_states), "(t f) n c -> t (f n) c", t=len(encoder_hidden_states))
        key, value = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        hidden_states = self.attend(query, key, value, attn.heads)
        hidden_states = rearrange(hidden_states, "t (f n) c -> (t f) n c", n=tokens)
        return attn.to_out[1](attn.to_out[0](hidden_states))


class TemporalAttention(nn.Module):
    """Self-attention (`attn_temp`) over the frames of a video at each spatial position (paper, section 3.2).

    The layers are named as in diffusers' Attention. position_bias: whether frames have an order. layers, placement: as
    in `Addition.build`.
    """

    def __init__(self, channels: int, heads: int, layers=nn, *, position_bias: bool = False, **placement):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (layers.Linear(channels, channels, bias=False, **placement) for _ in range(3))
        self.to_out = nn.ModuleList([layers.Linear(channels, channels, **placement)])
        self.position_bias = RelativePositionBias(heads, layers, **placement) if position_bias else None

    def forward(self, hidden_states: Tensor, num_frames: int) -> Tensor:
        """(b f) n c -> (b f) n c."""
        query, key, value = (
            rearrange(project(hidden_states), "(b f) n (h d) -> b n h f d", f=num_frames, h=self.heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        # in five dimensions, as on GPUs the kernels for four take no more than 65,535 rows in the backward pass
        bias = None if self.position_bias is None else self.position_bias(num_frames, query)
        hidden_states = F.scaled_dot_product_attention(query, key, value, bias)
        return self.to_out[0](rearrange(hidden_states, "b n h f d -> (b f) n (h d)"))
