"""Attention across the frames of a video: which frames a frame looks at, and the processors that make it look.

All tensors here have a batch of `(b f)`: the frames of a sample one after the other.
"""

from __future__ import annotations  # `Attention` is a name for readers; diffusers is not imported for it

from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .errors import TavError

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

PATTERNS = ("sparse-causal", "first", "frame", "full-causal", "full")


def attended_frames(pattern: str, num_frames: int) -> list[tuple[int, ...]]:
    """The frames whose tokens frame 0, 1, ... attends to, each named once.

    "sparse-causal" is the paper's (section 3.2): the first frame and the one before. Where the paper's [z_1; z_(i-1)]
    holds one frame twice, naming it once gives the same softmax average for half the work.
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
    raise TavError(f"Unknown attention pattern {pattern!r}; choose one of {', '.join(PATTERNS)}.")


def attend_across_frames(
    query: Tensor, key: Tensor, value: Tensor, attended: list[tuple[int, ...]], attend: Callable[..., Tensor]
) -> Tensor:
    """Lets the tokens of each frame attend to those of its `attended` frames.

    query: (b f) n c; key, value: (b s) n c, the first s frames, as far as any frame looks; returns (b f) n c.
    attend: the host's plain attention, (query, key, value) -> output, each (batch, tokens, channels).
    """
    query = rearrange(query, "(b f) n c -> b f n c", f=len(attended))
    keys, values = (rearrange(x, "(b s) n c -> s b n c", b=len(query)).unbind() for x in (key, value))
    # neighbours that look at the same frames ask as one, and those whose keys are equally long in one call
    groups = [(seen, len(list(askers))) for seen, askers in groupby(attended)]
    outputs, start = [], 0
    for (askers, _), batch in groupby(groups, key=lambda group: (group[1], len(group[0]))):
        seen = [frames for frames, _ in batch]
        asking = query[:, start : start + askers * len(seen)]
        start += askers * len(seen)
        output = attend(
            rearrange(asking, "b (g a) n c -> (b g) (a n) c", a=askers), _gather(keys, seen), _gather(values, seen)
        )
        outputs.append(rearrange(output, "(b g) (a n) c -> b (g a) n c", b=len(query), a=askers))
    return rearrange(torch.cat(outputs, dim=1), "b f n c -> (b f) n c")


def _gather(frames: tuple[Tensor, ...], seen: list[tuple[int, ...]]) -> Tensor:
    """The tokens of the frames that each group sees, on one sequence: s x (b n c) -> (b g) (k n) c."""
    return torch.stack([torch.cat([frames[i] for i in group], dim=1) for group in seen], dim=1).flatten(0, 1)


def attend_heads(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head scaled dot-product attention on (batch, tokens, heads * width)."""
    query, key, value = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(query, key, value), "b h n d -> b n (h d)")


class FrameCount:
    """How many frames each sample of the current batch has; one object, shared by all parts of an inflated network."""

    def __init__(self) -> None:
        self.num_frames = 1


class FrameAttnProcessor:
    """Self-attention (`attn1`) in which each frame looks at the frames that `pattern` names (paper, section 3.2)."""

    def __init__(self, pattern: str, count: FrameCount):
        self.pattern, self.count = pattern, count

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: None = None, attention_mask: None = None
    ) -> Tensor:
        attended = attended_frames(self.pattern, self.count.num_frames)
        reach = 1 + max(max(frames) for frames in attended)  # nobody looks at the frames beyond
        seen = rearrange(hidden_states, "(b f) n c -> b f n c", f=len(attended))[:, :reach].flatten(0, 1)
        query, key, value = attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen)
        hidden_states = attend_across_frames(
            query, key, value, attended, lambda q, k, v: attend_heads(q, k, v, attn.heads)
        )
        return attn.to_out[1](attn.to_out[0](hidden_states))


class TextAttnProcessor:
    """Cross-attention (`attn2`) of the frames to their text, whose keys and values are computed once per text.

    encoder_hidden_states: one text a sample, (b, n, d), or one a frame, ((b f), n, d).
    """

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None
    ) -> Tensor:
        tokens = hidden_states.shape[1]
        query = rearrange(attn.to_q(hidden_states), "(t f) n c -> t (f n) c", t=len(encoder_hidden_states))
        key, value = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        hidden_states = attend_heads(query, key, value, attn.heads)
        hidden_states = rearrange(hidden_states, "t (f n) c -> (t f) n c", n=tokens)
        return attn.to_out[1](attn.to_out[0](hidden_states))


class TemporalAttention(nn.Module):
    """Self-attention (`attn_temp`) of each spatial token over the frames of its video (paper, section 3.2).

    The layers are named as in diffusers' Attention. layers, placement: as `Addition.build` takes them.
    """

    def __init__(self, channels: int, heads: int, layers=nn, **placement):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (layers.Linear(channels, channels, bias=False, **placement) for _ in range(3))
        self.to_out = nn.ModuleList([layers.Linear(channels, channels, **placement)])

    def forward(self, hidden_states: Tensor, num_frames: int) -> Tensor:
        """(b f) n c -> (b f) n c."""
        query, key, value = (
            rearrange(project(hidden_states), "(b f) n (h d) -> b n h f d", f=num_frames, h=self.heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        hidden_states = F.scaled_dot_product_attention(query, key, value)
        return self.to_out[0](rearrange(hidden_states, "b n h f d -> (b f) n (h d)"))
