"""The settings that work for the miniature, and for networks as small as it; the paper's are for Stable Diffusion."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How a clip of the drawn world is tuned on and edited.

    steps: of DDIM, for each edit; inversion_steps: of DDIM, to the clip's noise and for its reconstruction.
    """

    tuning_steps: int = 100
    learning_rate: float = 2e-4
    steps: int = 25
    inversion_steps: int = 25
    guidance_scale: float = 4.0
    frames: int = 8


SETTINGS = Settings()
