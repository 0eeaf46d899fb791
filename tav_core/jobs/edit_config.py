"""The settings of an edit."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch

from ..errors import TavError, need
from ..precision import PRECISIONS, sampling_precision
from ..reweight import check_layout_is_kept, check_weights
from ..source import Dials
from ..steps import INVERSIONS, check_steps
from ..windows import Windows


@dataclass(frozen=True)
class EditConfig:
    """How to edit a clip; the defaults are the paper's values.

    invert_with: one of INVERSIONS; "fixed-point" reconstructs better and takes four times as long.
    keep_structure, keep_layout: for which share of the steps, 0 to 1, an edit borrows the clip's features, and keeps
        words that both prompts share where the clip has them; see `Dials`.
    reweight: factors of words of the edits, -100 to 100, for as long as the layout is kept.
    source_prompt: the clip's prompt, for what an edit keeps; None takes the one the weights were tuned with.
    from_inversion: start from the inverted clip; False starts from random noise drawn with the seed.
    seed: of that random noise, and of the noise that eta > 0 adds while sampling; the same for every prompt.
    strength: of the tuned weights; 0 is the base model.
    window: frames that the network sees at once, at least 2, or 0 for the whole clip; None as the weights were tuned.
    overlap: how many frames two neighbouring windows share; None for a quarter of the window. See `Windows`.
    precision: of the network: "no" (float32), "bf16" or "fp16"; "auto" is fp16 on a GPU, float32 on the CPU.
    """

    num_steps: int = 50
    inversion_steps: int = 50
    inversion_prompt: str = ""
    guidance_scale: float = 12.5
    negative_prompt: str = ""
    eta: float = 0.0
    seed: int = 0
    strength: float = 1.0
    precision: str = "auto"
    from_inversion: bool = True
    invert_with: str = "ddim"
    keep_structure: float = 0.0
    keep_layout: float = 0.0
    reweight: Mapping[str, float] = field(default_factory=dict)
    source_prompt: str | None = None
    window: int | None = None
    overlap: int | None = None

    def __post_init__(self):
        check_sampling(self)
        check_steps(self.inversion_steps, "inversion_steps")
        need(0 <= self.eta <= 1, "eta", self.eta, "from 0 to 1")
        need(self.invert_with in INVERSIONS, "invert_with", self.invert_with, f"one of {', '.join(INVERSIONS)}")
        check_weights(self.reweight)
        check_layout_is_kept(self.reweight, self.keep_layout)
        if self.window is not None:  # else that of the weights, which are not open yet
            Windows(self.window, self.windows.overlap)
        if self.dials and not self.from_inversion:
            raise TavError("An edit can keep structure or layout only if it starts from the inverted clip.")

    @property
    def dials(self) -> Dials:
        """How much an edit keeps."""
        return Dials(self.keep_structure, self.keep_layout)

    @property
    def windows(self) -> Windows:
        """What the network sees at once."""
        length = self.window or 0
        return Windows(length, length // 4 if self.overlap is None else self.overlap)

    def of_inversion(self) -> dict:
        """The settings an inversion depends on, including its method; part of its key."""
        divided = {"windows": asdict(self.windows)} if self.window else {}
        return {"method": self.invert_with, "steps": self.inversion_steps, "strength": self.strength} | divided

    def dtype(self, device: torch.device) -> torch.dtype:
        """The dtype of the networks on that device."""
        return sampling_precision(self.precision, device)


def check_sampling(config) -> None:
    """Checks the settings that an `EditConfig` and a `FillConfig` share; raises TavError."""
    check_steps(config.num_steps, "num_steps")
    need(math.isfinite(config.guidance_scale), "guidance_scale", config.guidance_scale, "a number, such as 7.5")
    need(0 <= config.seed < 2**63, "seed", config.seed, "a whole number of at least 0, below 2^63")
    need(math.isfinite(config.strength), "strength", config.strength, "a number, such as 1")
    choices = ("auto", *PRECISIONS)
    need(config.precision in choices, "precision", config.precision, f"one of {', '.join(choices)}")
