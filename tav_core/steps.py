"""How many DDIM steps may be taken, and how to invert; apart from ddim.py, so that a host need not load diffusers."""

from .errors import TavError, need

INVERSIONS = {"ddim": 0, "fixed-point": 3}
"""How to invert a clip: the name of each way, and the refinements it takes."""


def check_steps(num_steps: int, name: str = "steps") -> None:
    """Raises TavError if this many DDIM steps start far from full noise; fewer than 10, for a quick try, may.

    Steps are 1000 // num_steps timesteps apart, so 500 steps start at timestep 999, but 501 steps at timestep 501.
    """
    need(1 <= num_steps <= 999, name, num_steps, "from 1 to 999")
    stride = 1000 // num_steps
    if num_steps >= 10 and (num_steps - 1) * stride < 900:
        first = (num_steps - 1) * stride + 1
        raise TavError(
            f"{name} is {num_steps}, so DDIM would start at timestep {first} of 1000, far from full noise; "
            f"use {1000 // (stride + 1)} or {min(1000 // stride, 999)}."
        )
