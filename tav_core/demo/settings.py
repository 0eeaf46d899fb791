"""Settings that work for the miniature and for networks of its size; the paper's are for Stable Diffusion."""

from dataclasses import dataclass

from ..jobs.edit_config import EditConfig
from ..tune import TuneConfig


@dataclass(frozen=True)
class Settings:
    """How a clip of the drawn world is tuned on and edited.

    steps: DDIM steps of each edit; inversion_steps: DDIM steps of the inversion and of the reconstruction.
    group_norm: per frame. Over the whole video, as in the original, some frames of an earlier miniature lacked the
        object.
    """

    tuning_steps: int = 100
    learning_rate: float = 3e-4
    steps: int = 20
    inversion_steps: int = 20
    guidance_scale: float = 2.5
    frames: int = 8
    group_norm: str = "frame"

    def __post_init__(self):
        TuneConfig(num_steps=self.tuning_steps, learning_rate=self.learning_rate)  # for their checks
        EditConfig(num_steps=self.steps, inversion_steps=self.inversion_steps, guidance_scale=self.guidance_scale)


SETTINGS = Settings()
