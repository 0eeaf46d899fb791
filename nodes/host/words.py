"""The words behind a CONDITIONING: a node receives only its tensors, so the text is read from the graph and checked."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from ...tav_core.errors import TavError, is_text, shown
from ...tav_core.layout import Layout, Tokens, align
from ...tav_core.reweight import weights_in
from .graph import Graph, prompt_behind


def tokens_behind(clip, conditioning: list, graph: Graph, node_id: str | None, socket: str) -> Tokens:
    """The tokens of the prompt that a CONDITIONING at this socket was encoded from.

    clip: the CLIP that encoded it. Raises TavError if the graph's text does not give this conditioning.
    """
    text = prompt_behind(graph, node_id, socket)
    encoded = clip.encode_from_tokens(clip.tokenize(text)) if text and is_text(text) else None
    given = conditioning[0][0]
    if encoded is None or encoded.shape != given.shape or not torch.allclose(encoded, given.to(encoded), atol=1e-3):
        raise TavError(
            f"The words behind {socket!r} cannot be read from the graph; connect a CLIP Text Encode with the prompt "
            "typed into it, and the same CLIP here."
        )
    return tokens_of(clip, text)


def layout_between(
    clip, source: list, edit: list, graph: Graph, node_id: str | None, weights: Mapping[str, float]
) -> Layout:
    """How the words behind a node's `edit` align with those behind its `source`, of whose CONDITIONINGs these are.

    weights: factors of words of the edit. Raises TavError as `tokens_behind` does, and for words that are not there.
    """
    own, edited = (
        tokens_behind(clip, *each) for each in ((source, graph, node_id, "source"), (edit, graph, node_id, "edit"))
    )
    return align(own, edited, weights_in([edited], weights, lambda words: tokens_of(clip, words)))


def tokens_of(clip, text: str) -> Tokens:
    """A prompt's tokens as the host encodes them, and their words."""
    if not is_text(text):
        raise TavError(f"{shown(text)} holds half a character (a lone surrogate); type it again.")
    # safe: the host's own form: {encoder: chunks of (token or embedding, weight, number of its part, 0 for none)}; a
    # part is a run of words of one weight
    (chunks,) = clip.tokenize(text, return_word_ids=True).values()
    spelling = getattr(clip.tokenizer, clip.tokenizer.clip).inv_vocab
    ids, words, ends, word = [], [], set(), 0
    for place, (token, _, part) in enumerate(each for chunk in chunks for each in chunk):
        spelled = spelling.get(token, "") if isinstance(token, int) else "embedding</w>"
        ids.append(token if isinstance(token, int) else _id_of(token))
        begins = place - 1 in ends or not part or not words[-1]
        # a sign belongs to the word before it, as in a text between spaces
        if part and begins and (not word or any(letter.isalnum() for letter in spelled.removesuffix("</w>"))):
            word += 1
        words.append(word if part else 0)
        if spelled.endswith("</w>"):
            ends.add(place)
    return Tokens(tuple(map(int, ids)), tuple(words), frozenset(ends))


def _id_of(embedding: Tensor) -> int:
    """A number for an embedding of the user's own, below those of tokens."""
    data = embedding.detach().float().cpu().contiguous().numpy().tobytes()
    return -1 - int.from_bytes(hashlib.sha256(data).digest()[:6], "big")
