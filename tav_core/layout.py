"""Where the words of a prompt are looked for: keeps shared words where the source has them (Hertz et al. 2022,
"Prompt-to-Prompt", arXiv 2208.01626)."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .errors import TavError

CHUNK = 77  # tokens that the text encoder takes at once
LARGEST = 2**25  # elements of attention maps computed at once
LONGEST = 20 * CHUNK  # tokens of a prompt whose words are aligned, which takes the square of them


@dataclass(frozen=True)
class Tokens:
    """A prompt's tokens, padded, in chunks of 77 that each begin with a start and end with an end token.

    ids: the token of each position. words: for each position, the number of its word in the prompt, from 1; 0 for
    start, end and padding. ends: the positions at which a spelled word or a sign ends; None if unknown.
    """

    ids: tuple[int, ...]
    words: tuple[int, ...]
    ends: frozenset[int] | None = None

    @property
    def spelled(self) -> dict[int, tuple[int, ...]]:
        """The token ids of each word."""
        return {word: tuple(self.ids[place] for place in self.places(word)) for word in sorted({*self.words} - {0})}

    def places(self, word: int) -> list[int]:
        """The positions of a word."""
        return [place for place, number in enumerate(self.words) if number == word]

    def find(self, wanted: "Tokens") -> list[int]:
        """The positions of all occurrences of the words of another prompt, side by side as they are there."""
        ids = tuple(token for token, word in zip(wanted.ids, wanted.words, strict=True) if word)
        if not 0 < len(ids) <= CHUNK:  # more side by side would take two chunks, with an end and a start between them
            return []
        found = [place for place in range(len(self.ids)) if self.ids[place : place + len(ids)] == ids]
        starts = [place for place in found if self.words[place] and self._begins_at(place)]
        return sorted({place for start in starts for place in range(start, start + len(ids))})

    def _begins_at(self, place: int) -> bool:
        """Whether no word is cut in two before a position, as "ball" would in "beachball"."""
        return self.ends is None or not self.words[place - 1] or place - 1 in self.ends

    def is_padding(self, place: int) -> bool:
        """Whether a position comes after its chunk's end token."""
        first = place - place % CHUNK
        last_word = max((p for p in range(first, first + CHUNK) if self.words[p]), default=first)
        return place > last_word + 1


@dataclass(frozen=True, eq=False)
class Layout:
    """How an edit's tokens take the source's attention maps.

    mapper: (source tokens, edit tokens); the map of an edit's token is this combination of the source's maps.
    shared: (edit tokens,), 1 where that replaces the token's own map, 0 where the token keeps its own.
    gains: (edit tokens,), which multiply the maps.
    replaces: whether every word takes a map of the source's, as prompts of equal structure allow; otherwise only the
        words that both prompts share.
    """

    mapper: Tensor
    shared: Tensor
    gains: Tensor
    replaces: bool

    def blend(self, source: Tensor, own: Tensor) -> Tensor:
        """Attention maps (..., source tokens) and (..., edit tokens) -> (..., edit tokens).

        A host may repeat prompts to make them equally long; the maps are then spread over the repetitions.
        """
        mapper, shared, gains = (part.to(own) for part in (self.mapper, self.shared, self.gains))
        times, rest = divmod(own.shape[-1], len(shared))
        if rest or source.shape[-1] % len(mapper):
            raise TavError(
                f"The layout is for prompts of {len(mapper)} and {len(shared)} tokens, but got {source.shape[-1]} and "
                f"{own.shape[-1]}; align the prompts that are used."
            )
        source = rearrange(source, "... (r w) -> ... r w", w=len(mapper)).sum(dim=-2)
        taken = (source @ (mapper * shared)).repeat(*(1,) * (own.ndim - 1), times) / times
        return (taken + own * (1 - shared).repeat(times)) * gains.repeat(times)


def align(
    source: Tokens, edit: Tokens, weights: Mapping[Tokens, float] | None = None, replaces: bool | None = None
) -> Layout:
    """Aligns an edit's tokens with the source's.

    Where both prompts have as many words, and at least half of them agree in their place, every word takes the map of
    the source's word in its place (Prompt-to-Prompt's replacement). Otherwise the tokens of a longest common
    subsequence take those of the source (its refinement).

    weights: factors of words of the edit (its re-weighting), wherever they occur; absent ones change nothing.
    replaces: forces either; replacement needs as many words in both.
    """
    if (longest := max(len(source.ids), len(edit.ids))) > LONGEST:
        raise TavError(
            f"Words are aligned in prompts of up to {LONGEST} tokens, but one has {longest}; shorten it, or do not "
            "keep the layout."
        )
    words, others = source.spelled, edit.spelled
    agree = sum(words[word] == others.get(word) for word in words)
    if replaces is None:
        replaces = len(words) == len(others) and 2 * agree >= len(words)
    mapper = torch.zeros(len(source.ids), len(edit.ids))
    for place, other in _common(source, edit):
        mapper[place, other] = 1
    if replaces:
        for word in others:
            places, targets = source.places(word), edit.places(word)
            mapper[:, targets] = 0
            if len(places) == len(targets):
                mapper[places, targets] = 1
            else:
                mapper[torch.tensor(places)[:, None], torch.tensor(targets)] = 1 / len(targets)
    for place in range(len(edit.ids)):
        if edit.is_padding(place) and place < len(source.ids):
            # a position of the source's words is none of its padding; the last of each chunk always is
            taken = place if source.is_padding(place) else place - place % CHUNK + CHUNK - 1
            mapper[taken, place] = 1
    gains = torch.ones(len(edit.ids))
    for wanted, weight in (weights or {}).items():
        gains[edit.find(wanted)] = weight
    return Layout(mapper, (mapper.sum(dim=0) > 0).float(), gains, replaces)


def _common(source: Tokens, edit: Tokens) -> list[tuple[int, int]]:
    """The positions of a longest common subsequence of two prompts' tokens without padding."""
    first, second = ([p for p in range(len(t.ids)) if not t.is_padding(p)] for t in (source, edit))
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, place in enumerate(first):
        for j, other in enumerate(second):
            same = source.ids[place] == edit.ids[other]
            lengths[i + 1][j + 1] = max(lengths[i + 1][j], lengths[i][j + 1], lengths[i][j] + same)
    pairs, i, j = [], len(first), len(second)
    while i and j:  # of several subsequences the one that leaves out the later tokens of the edit, as published
        if lengths[i][j] == lengths[i][j - 1]:
            j -= 1
        elif lengths[i][j] == lengths[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((first[i], second[j]))
    return pairs[::-1]


def attention_maps(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Cross-attention maps: query (b n c), key (b w c) -> (b, heads, n, w), which sum to 1 over w."""
    query, key = (rearrange(x, "b n (h d) -> b h n d", h=heads).float() for x in (query, key))
    device = query.device.type
    with torch.autocast(device, enabled=False) if device != "meta" else nullcontext():  # half precision would overflow
        return (query * query.shape[-1] ** -0.5 @ key.mT).softmax(dim=-1)


def attend_with_layout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    source: tuple[Tensor, Tensor],
    layout: Layout,
) -> Tensor:
    """Cross-attention of an edit with the layout of its source.

    query: ((b f), n, c); key, value: (t, w, c) with t prompts, for as many queries each; returns ((b f), n, c).
    source: its query (f, n, c) and its key (1, w', c) or (f, w', c).
    """
    each, frames = len(query) // len(key), len(source[0])
    size = max(1, LARGEST // (heads * query.shape[1] * key.shape[1]))
    outputs = []
    for rows in torch.arange(len(query), device=query.device).split(size):
        prompts, its = rows // each, rows % frames
        maps = attention_maps(source[0][its], source[1].expand(frames, -1, -1)[its], heads)
        maps = layout.blend(maps, attention_maps(query[rows], key[prompts], heads))
        values = rearrange(value[prompts], "b w (h d) -> b h w d", h=heads)
        outputs.append(rearrange(maps.to(values) @ values, "b h n d -> b n (h d)"))
    return torch.cat(outputs)
