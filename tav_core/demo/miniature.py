"""Where the miniature Stable Diffusion lies, which comes with this package; benchmarks/train_miniature.py made it."""

from pathlib import Path

from ..errors import TavError

MINIATURE = Path(__file__).parent / "miniature"
STRIPED_BALL = MINIATURE / "sks-ball-lora.safetensors"  # the personalised sibling, as a LoRA in kohya's keys


def miniature_path() -> Path:
    """The diffusers folder of the miniature; TavError where the package was installed without it."""
    if not (MINIATURE / "model_index.json").is_file():
        raise TavError(
            f"The miniature checkpoint is not in {MINIATURE}: clone the repository again, with all its files."
        )
    return MINIATURE
