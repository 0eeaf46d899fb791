"""One-shot video tuning of text-to-image diffusion models (Tune-A-Video, Wu et al., ICCV 2023)."""

from .checkpoint import Checkpoint, load_checkpoint
from .control import Control
from .control_files import open_controlnet, open_t2i_adapter
from .ddim import NoisePredictor, as_noise, guided, invert, sample
from .errors import TavError
from .inflate import InflatedUNet, inflate
from .lora import Lora, fuse_loras
from .tune import TuneConfig, TuneReport, tune
from .tuned import TunedWeights
from .version import __version__
from .video import Clip, read_frames, write_video

__all__ = [
    "Checkpoint",
    "Clip",
    "Control",
    "InflatedUNet",
    "Lora",
    "NoisePredictor",
    "TavError",
    "TuneConfig",
    "TuneReport",
    "TunedWeights",
    "__version__",
    "as_noise",
    "fuse_loras",
    "guided",
    "inflate",
    "invert",
    "load_checkpoint",
    "open_controlnet",
    "open_t2i_adapter",
    "read_frames",
    "sample",
    "tune",
    "write_video",
]
