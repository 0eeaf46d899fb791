"""One-shot video tuning of text-to-image diffusion models (Tune-A-Video, Wu et al., ICCV 2023).

Names are imported on first use, so `import tav_core` is cheap. `tune` and `inflate` are each a module and a function:
as attributes of this package they are the functions, and `import tav_core.tune as m` gives the function, too. For
anything else in those modules, write `from tav_core.tune import ...`.
"""

import importlib
import sys
import threading
from types import ModuleType

from .version import __version__

_MODULES = {
    "Checkpoint": "checkpoints.checkpoint",
    "Clip": "video.read",
    "Control": "control",
    "InflatedUNet": "inflate",
    "Lora": "checkpoints.lora",
    "NoisePredictor": "prediction",
    "Prompt": "prompt",
    "TavError": "errors",
    "TuneConfig": "tune",
    "TuneReport": "tune",
    "TunedWeights": "tuned",
    "Windows": "windows",
    "as_noise": "prediction",
    "fuse_loras": "checkpoints.lora",
    "guided": "prediction",
    "inflate": "inflate",
    "invert": "ddim",
    "load_checkpoint": "checkpoints.checkpoint",
    "open_controlnet": "checkpoints.control_networks",
    "open_t2i_adapter": "checkpoints.control_networks",
    "read_frames": "video.read",
    "sample": "ddim",
    "tune": "tune",
    "windowed": "windows",
    "write_video": "video.write",
}
__all__ = ["__version__", *_MODULES]


_LOCK = threading.RLock()
"""diffusers' own lazy imports fail when two threads import it at once."""


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _LOCK:
        value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        """Keeps the function where importing a submodule would set the module of the same name as an attribute."""
        if isinstance(value, ModuleType) and name in _MODULES:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
