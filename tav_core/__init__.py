"""One-shot video tuning of text-to-image diffusion models (Tune-A-Video, Wu et al., ICCV 2023)."""

from .checkpoint import Checkpoint, load_checkpoint
from .ddim import NoisePredictor, as_noise, guided, invert, sample
from .errors import TavError
from .inflate import InflatedUNet, inflate
from .tune import TuneConfig, TuneReport, tune
from .tuned import TunedWeights
from .version import __version__
from .video import Clip, read_frames, write_video

__all__ = [
    "Checkpoint",
    "Clip",
    "InflatedUNet",
    "NoisePredictor",
    "TavError",
    "TuneConfig",
    "TuneReport",
    "TunedWeights",
    "__version__",
    "as_noise",
    "guided",
    "inflate",
    "invert",
    "load_checkpoint",
    "read_frames",
    "sample",
    "tune",
    "write_video",
]
