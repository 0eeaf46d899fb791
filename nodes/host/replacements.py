"""Replacements of attention on a MODEL: ours, and those of other nodes."""

from collections.abc import Callable, Mapping

OURS = "tune_a_video_attention"
"""The attribute of our replacements: another node's, which computes the attention itself for ours; None for none."""


def replacements(model_options: Mapping, attention: str) -> dict:
    """The replacements of "attn1" or "attn2" by place: (kind of block, number), perhaps with a transformer's number."""
    return model_options.get("transformer_options", {}).get("patches_replace", {}).get(attention, {})


def is_ours(replacement: Callable | None) -> bool:
    return hasattr(replacement, OURS)


def marked(replacement: Callable, inner: Callable | None = None) -> Callable:
    """The replacement, known as ours from now on. inner: of another node, called in it."""
    setattr(replacement, OURS, inner)
    return replacement


def others(replacement: Callable | None) -> Callable | None:
    """The replacement of another node that this is or calls; None if there is none."""
    return getattr(replacement, OURS, replacement)


def has_others(model_options: Mapping, attention: str) -> bool:
    """Whether another node has a say in this attention."""
    return any(others(one) for one in replacements(model_options, attention).values())
