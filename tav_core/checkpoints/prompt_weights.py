"""Weights of words in a prompt, `(red:1.3)`, read as ComfyUI's CLIP Text Encode reads them."""

import math
import re
from collections.abc import Iterator
from contextlib import suppress

from ..errors import TavError, is_text, shown

ESCAPED = {r"\(": "\0", r"\)": "\1"}  # to characters that no prompt has, while parentheses are read
PLAIN_GROUP = 1.1  # how much stronger parentheses without a number make what is in them
NOT_HERE = (
    (r"(?:^|\s)embedding:\S", "embedding:NAME is read as plain words here: textual inversions work only in ComfyUI"),
    (r"\bBREAK\b", "BREAK is read as the word 'break', as in ComfyUI: it does not start a new part of the prompt"),
)


def weighted_parts(prompt: str) -> list[tuple[str, float]]:
    """Splits a prompt into parts, each with its weight; all parts joined are the prompt without its weights.

    `(words)` weigh 1.1 times as much as what is around them, `(words:1.3)` weigh 1.3, and `\\(` is a parenthesis.
    Raises TavError for what cannot be read.
    """
    if not is_text(prompt):
        raise TavError(f"The prompt {shown(prompt)} holds half a character (a lone surrogate); type it again.")
    if "(" not in prompt and "\\" not in prompt:
        return [(prompt, 1.0)]
    text = prompt
    for escaped, mark in ESCAPED.items():
        text = text.replace(escaped, mark)
    try:
        parts = list(_weighted(text, 1.0))
    except RecursionError:
        raise TavError(f"The prompt {shown(prompt)} nests too many parentheses; remove some.") from None
    if not all(math.isfinite(weight) for _, weight in parts):
        raise TavError(f"The prompt {shown(prompt)} has a weight that is not a number, such as 1.3; correct it.")
    return [(part.replace("\0", "(").replace("\1", ")"), weight) for part, weight in parts]


def without_weights(prompt: str) -> str:
    """The words of a prompt alone."""
    return "".join(part for part, _ in weighted_parts(prompt))


def notes_on(prompt: str) -> list[str]:
    """A warning for each thing in a prompt that other programs would not read as words."""
    return [f"In {shown(prompt)}, {note}." for pattern, note in NOT_HERE if re.search(pattern, prompt)]


def _weighted(text: str, weight: float) -> Iterator[tuple[str, float]]:
    for piece in _pieces(text):
        if len(piece) < 2 or piece[0] != "(" or piece[-1] != ")":
            yield piece, weight
            continue
        inner, own = piece[1:-1], PLAIN_GROUP * weight
        words, colon, number = inner.rpartition(":")
        if words and colon:
            with suppress(ValueError):  # else the colon is the text's
                inner, own = words, float(number)
        yield from _weighted(inner, own)


def _pieces(text: str) -> Iterator[str]:
    """Splits a text before and after its outermost parentheses."""
    depth = start = 0
    for place, char in enumerate(text):
        if char == "(":
            if depth == 0 and place > start:
                yield text[start:place]
                start = place
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                yield text[start : place + 1]
                start = place + 1
    if start < len(text):
        yield text[start:]
