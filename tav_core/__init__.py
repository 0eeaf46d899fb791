"""One-shot video tuning of text-to-image diffusion models (Tune-A-Video, Wu et al., ICCV 2023)."""

from .ddim import as_noise, guided, invert, sample
from .errors import TavError
from .inflate import InflatedUNet, inflate

__all__ = ["InflatedUNet", "TavError", "as_noise", "guided", "inflate", "invert", "sample"]
