"""What differs between the versions of ComfyUI."""

import inspect


def known(kind: type, **options) -> dict:
    """Those of the options that this host's class has; ComfyUI 0.3.64 lacks `advanced` and `search_aliases`."""
    return {name: value for name, value in options.items() if name in inspect.signature(kind).parameters}
