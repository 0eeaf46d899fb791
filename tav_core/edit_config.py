"""How a clip is edited."""

import math
from dataclasses import dataclass

import torch

from .errors import TavError, need

PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class EditConfig:
    """How to edit; the paper's values are the defaults.

    from_inversion: starts from the noise that the clip came from; False starts from random noise of the seed.
    seed: of that random noise, and of what eta > 0 adds while sampling; each prompt starts from it anew.
    strength: of the tuned weights; 0 is the base model.
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

    def __post_init__(self):
        for name in ("num_steps", "inversion_steps"):
            check_steps(getattr(self, name), name)
        need(math.isfinite(self.guidance_scale), "guidance_scale", self.guidance_scale, "a number, such as 12.5")
        need(0 <= self.seed < 2**63, "seed", self.seed, "a whole number of at least 0")
        need(0 <= self.eta <= 1, "eta", self.eta, "from 0 to 1")
        need(math.isfinite(self.strength), "strength", self.strength, "a number, such as 1")
        choices = ("auto", *PRECISIONS)
        need(self.precision in choices, "precision", self.precision, f"one of {', '.join(choices)}")

    def dtype(self, device: torch.device) -> torch.dtype:
        """The precision in which the networks are loaded on that device."""
        if self.precision == "auto":
            return torch.float16 if device.type == "cuda" else torch.float32
        return PRECISIONS[self.precision]


def check_steps(num_steps: int, name: str = "steps") -> None:
    """Raises TavError unless DDIM in so many steps begins near full noise; fewer than 10, for a quick try, need not.

    The steps are 1000 // num_steps timesteps apart, so 500 begin at timestep 999, and 501 at 501.
    """
    need(1 <= num_steps <= 999, name, num_steps, "from 1 to 999")
    stride = 1000 // num_steps
    if num_steps >= 10 and (num_steps - 1) * stride < 900:
        first = (num_steps - 1) * stride + 1
        raise TavError(
            f"{name} is {num_steps}, and so many steps of DDIM begin at timestep {first} of 1000, far from full noise; "
            f"take {1000 // (stride + 1)} or {min(1000 // stride, 999)}."
        )
