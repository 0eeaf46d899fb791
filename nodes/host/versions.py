"""Differences between versions of ComfyUI."""

import inspect


def known(kind: type, **options) -> dict:
    """The options that this host's class accepts; ComfyUI 0.3.64 lacks `advanced` and `search_aliases`."""
    return {name: value for name, value in options.items() if name in inspect.signature(kind).parameters}
