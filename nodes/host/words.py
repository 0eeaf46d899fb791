"""The words behind a CONDITIONING: a node receives only its tensors, so the text is read from the graph and checked."""

import torch

from ...tav_core.errors import TavError
from ...tav_core.layout import Tokens
from .graph import Graph, prompt_behind


def tokens_behind(clip, conditioning: list, graph: Graph, node_id: str | None, socket: str) -> Tokens:
    """The tokens of the prompt that a CONDITIONING at this socket was encoded from.

    clip: the CLIP that encoded it. Raises TavError if the graph's text does not give this conditioning.
    """
    text = prompt_behind(graph, node_id, socket)
    encoded = clip.encode_from_tokens(clip.tokenize(text)) if text else None
    given = conditioning[0][0]
    if encoded is None or encoded.shape != given.shape or not torch.allclose(encoded, given.to(encoded), atol=1e-3):
        raise TavError(
            f"The words behind {socket!r} cannot be read from the graph; connect a CLIP Text Encode with the prompt "
            "typed into it, and the same CLIP here."
        )
    return tokens_of(clip, text)


def tokens_of(clip, text: str) -> Tokens:
    """A prompt's tokens as the host encodes them, and their words."""
    # safe: the host's own form; {encoder: chunks of (token or embedding, weight, number of the word, 0 for none)}
    (chunks,) = clip.tokenize(text, return_word_ids=True).values()
    pairs = [(token, word) for chunk in chunks for token, _, word in chunk]
    ids = [token if isinstance(token, int) else -word for token, word in pairs]  # an embedding of the user's own
    return Tokens(tuple(map(int, ids)), tuple(word for _, word in pairs))
