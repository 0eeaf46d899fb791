"""The version, kept in code because a ComfyUI pack is not installed; equal to the one in pyproject.toml."""

__version__ = "0.1.0"
