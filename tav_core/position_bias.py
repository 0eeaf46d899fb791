"""Relative position bias of temporal attention (Ho et al. 2022, arXiv 2204.03458; buckets as in T5, arXiv 1910.10683).

Without it, temporal attention sees a set of frames and cannot tell which comes first.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

BUCKETS, MAX_DISTANCE = 32, 32


def relative_buckets(num_frames: int, device: torch.device | str | None = None) -> Tensor:
    """The bucket of each pair of frames, (f, f): [i, j] is that of frame j as frame i sees it."""
    buckets, frames = torch.tensor(_buckets(num_frames), device=device), torch.arange(num_frames, device=device)
    return buckets[frames[:, None] - frames + num_frames - 1]


@lru_cache(maxsize=64)
def _buckets(num_frames: int) -> tuple[int, ...]:
    """The buckets of the frames from the farthest ahead to the farthest behind."""
    return tuple(_bucket(behind) for behind in range(1 - num_frames, num_frames))


def _bucket(behind: int) -> int:
    """The bucket of a frame so many frames behind; those ahead (negative) have the upper half of the buckets.

    In each half, near distances have a bucket of their own, and farther ones share buckets of growing width.
    """
    half, distance = BUCKETS // 2, abs(behind)
    exact = half // 2
    if distance >= exact:
        share = math.log(distance / exact) / math.log(MAX_DISTANCE / exact)
        distance = min(exact + int(share * (half - exact)), half - 1)
    return distance + (half if behind < 0 else 0)


class RelativePositionBias(nn.Module):
    """A learned number per bucket and head, added to the scores of temporal attention.

    layers, placement: as in `Addition.build`.
    """

    def __init__(self, heads: int, layers=nn, **placement):
        super().__init__()
        self.buckets = layers.Embedding(BUCKETS, heads, **placement)

    def forward(self, num_frames: int, like: Tensor) -> Tensor:
        """(heads, f, f), on the device and in the dtype of another tensor."""
        return self.buckets(relative_buckets(num_frames, like.device)).to(like.dtype).movedim(-1, 0)
