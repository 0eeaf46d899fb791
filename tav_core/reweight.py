"""Words of an edit that count for more or less than the prompt gives them (Hertz et al. 2022, "Prompt-to-Prompt",
section 3: attention re-weighting)."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from .errors import TavError, need, shown
from .layout import Tokens

FORM = "WORD:FACTOR"


def read_weights(texts: Iterable[str]) -> dict[str, float]:
    """The factor of each word or words in texts such as "yellow:2, dark sea:0.5"; none in empty texts.

    Raises TavError for anything else, and for words given twice.
    """
    weights = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        if not part:
            continue
        words, _, factor = (piece.strip() for piece in part.rpartition(":"))
        try:
            weight = float(factor)
        except ValueError:
            weight = math.nan
        if not words or math.isnan(weight):
            raise TavError(f"Words are re-weighted as {FORM}, for example yellow:2, but got {shown(part)}.")
        if words in weights:
            raise TavError(f"{shown(words)} is re-weighted twice; give it once.")
        weights[words] = weight
    check_weights(weights)
    return weights


def check_weights(weights: Mapping[str, float]) -> None:
    """Raises TavError for a factor outside of -100..100."""
    for words, weight in weights.items():
        need(
            -100 <= weight <= 100, f"The factor of {shown(words)}", weight, "from -100 to 100, where 1 changes nothing"
        )


def check_layout_is_kept(weights: Mapping[str, float], keep_layout: float) -> None:
    """Raises TavError if words are re-weighted by an edit that does not keep the layout, where it would do nothing."""
    if weights and not keep_layout:
        raise TavError("Words are re-weighted while the layout is kept; set keep_layout above 0, for example to 0.4.")


def weights_in(
    edits: Sequence[Tokens], weights: Mapping[str, float], tokens_of: Callable[[str], Tokens]
) -> dict[Tokens, float]:
    """The factors by tokens, for `align`. Raises TavError for words that are in none of the edits, or given twice."""
    found = {}
    for words, weight in weights.items():
        tokens = tokens_of(words)
        if not any(edit.find(tokens) for edit in edits):
            raise TavError(f"{shown(words)} is to be re-weighted, but is not in the edited prompt; give words of it.")
        if tokens in found:  # "Yellow" and "yellow" are one word to CLIP
            raise TavError(f"{shown(words)} is re-weighted twice; give it once.")
        found[tokens] = weight
    return found
