"""Where the bundled miniature Stable Diffusion is, with all that benchmarks/train_miniature.py trained for it."""

from pathlib import Path

from ..errors import TavError

MINIATURE = Path(__file__).parent / "miniature"
SKS_LORA = MINIATURE / "sks-lora.safetensors"  # draws "sks" shapes with white bands; kohya's keys


def miniature_path() -> Path:
    """The diffusers folder of the miniature; TavError if the package was installed without it."""
    if not (MINIATURE / "model_index.json").is_file():
        raise TavError(
            f"The miniature checkpoint is missing from {MINIATURE}; clone the repository again, with all its files."
        )
    return MINIATURE
