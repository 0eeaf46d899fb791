"""The version, where a pack inside ComfyUI finds it too; pyproject.toml says the same."""

__version__ = "0.1.0"
