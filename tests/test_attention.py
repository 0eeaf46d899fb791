import weakref

import pytest
import torch
from diffusers.models.attention_processor import Attention
from einops import rearrange

from tav_core.attention import (
    PATTERNS,
    FrameAttnProcessor,
    FrameCount,
    TemporalAttention,
    TextAttnProcessor,
    attend_across_frames,
    attend_heads,
    attended_frames,
)
from tav_core.errors import TavError


def self_attention(processor) -> Attention:
    torch.manual_seed(0)
    return Attention(32, heads=4, dim_head=8, processor=processor).requires_grad_(False)


def changed_frames(attn, count, frame: int) -> list[int]:
    """The frames whose output moves when the tokens of one frame do."""
    count.num_frames = 5
    tokens = torch.randn(5, 16, 32)
    before = attn(tokens)
    tokens[frame] += 1.0
    return (attn(tokens) - before).abs().amax(dim=(1, 2)).gt(1e-6).nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("pattern", "changed"),
    [
        ("sparse-causal", [1, 2]),
        ("first", [1]),
        ("frame", [1]),
        ("full-causal", [1, 2, 3, 4]),
        ("full", [0, 1, 2, 3, 4]),
    ],
)
def test_the_second_frame_reaches_the_frames_that_look_at_it(pattern, changed):
    count = FrameCount()
    assert changed_frames(self_attention(FrameAttnProcessor(pattern, count)), count, frame=1) == changed


@pytest.mark.parametrize("pattern", ["sparse-causal", "first", "full-causal", "full"])
def test_the_first_frame_reaches_all_others(pattern):
    count = FrameCount()
    assert changed_frames(self_attention(FrameAttnProcessor(pattern, count)), count, frame=0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("frames", [1, 2, 3, 6])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_frames_attended_in_batches_get_what_each_would_get_alone(pattern, frames):
    query, key, value = torch.randn(3, 2 * frames, 9, 16)
    attended = attended_frames(pattern, frames)
    got = attend_across_frames(query, key, value, attended, lambda q, k, v: attend_heads(q, k, v, heads=2))
    query, key, value, got = (rearrange(x, "(b f) n c -> b f n c", b=2) for x in (query, key, value, got))
    for frame, seen in enumerate(attended):
        keys, values = (torch.cat([x[:, i] for i in seen], dim=1) for x in (key, value))
        torch.testing.assert_close(got[:, frame], attend_heads(query[:, frame], keys, values, heads=2))


def test_one_call_s_keys_are_let_go_before_the_next_are_gathered():
    """Else full-causal attention would hold f (f + 1) / 2 frames of keys at once, even to sample."""
    kept = []

    def attend(query, key, value):
        assert all(reference() is None for reference in kept)
        kept.extend(map(weakref.ref, (key, value)))
        return query

    attend_across_frames(*torch.randn(3, 2 * 5, 9, 16), attended_frames("full-causal", 5), attend)
    assert len(kept) == 2 * 5


def test_naming_a_frame_once_equals_the_papers_two_copies_of_it():
    query, key, value = torch.randn(3, 1, 9, 16)
    doubled = attend_heads(query, key.repeat(1, 2, 1), value.repeat(1, 2, 1), heads=2)
    torch.testing.assert_close(attend_heads(query, key, value, heads=2), doubled)


def test_one_text_for_all_frames_equals_the_same_text_for_each():
    torch.manual_seed(0)
    attn = Attention(32, cross_attention_dim=24, heads=4, dim_head=8, processor=TextAttnProcessor())
    frames, texts = torch.randn(2 * 3, 16, 32), torch.randn(2, 7, 24)
    torch.testing.assert_close(attn(frames, texts), attn(frames, texts.repeat_interleave(3, dim=0)))


def test_temporal_attention_mixes_frames_but_never_places():
    torch.manual_seed(0)
    attn, tokens = TemporalAttention(32, heads=4).requires_grad_(False), torch.randn(5, 16, 32)
    before = attn(tokens, num_frames=5)
    tokens[3, 7] += 1.0
    moved = (attn(tokens, num_frames=5) - before).abs().amax(dim=2) > 1e-6
    assert moved[:, 7].all()
    assert moved.sum() == 5


def test_an_unknown_pattern_is_named_with_the_known_ones():
    with pytest.raises(TavError, match=r"'sparse'.*sparse-causal, first, frame, full-causal, full"):
        attended_frames("sparse", 3)
