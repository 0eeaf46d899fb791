"""What tuning jobs and edit jobs share: a clip and its frames, a checkpoint, room for results, a device, memory."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
import torch
from diffusers import DDIMScheduler

from .checkpoint import Checkpoint, load_checkpoint
from .errors import TavError
from .lora import Lora, fuse_loras
from .memory import available_memory, fits, with_losses
from .tuned import fingerprint
from .version import __version__
from .video import Clip, read_frames


@dataclass(frozen=True)
class Selection:
    """Which frames of which clip, and how large; the fields are those of `read_frames`."""

    clip: Path
    frames: int = 24
    size: int | tuple[int, int] = 512
    start: int = 0
    stride: int = 0
    fit: str = "crop"

    def read(self) -> Clip:
        """Reads the chosen frames (f, h, w, 3); TavError as `read_frames` raises."""
        return read_frames(self.clip, self.frames, size=self.size, start=self.start, stride=self.stride, fit=self.fit)

    @property
    def width_and_height(self) -> list[int]:
        """The size as JSON holds it: [width, height]."""
        return list(self.size) if isinstance(self.size, (tuple, list)) else [self.size, self.size]

    def facts(self) -> dict:
        """All of it but the folder the clip lies in, as JSON holds it."""
        return {
            "clip": self.clip.name,
            "frames": self.frames,
            "size": self.width_and_height,
            "start": self.start,
            "stride": self.stride,
            "fit": self.fit,
        }


def open_base(
    checkpoint: str | os.PathLike,
    *,
    loras: Sequence[Lora] = (),
    prediction_type: str | None = None,
    device: torch.device | None = None,
) -> tuple[Checkpoint, str]:
    """A checkpoint in float32 with LoRAs fused into it, and the fingerprint of its UNet without them.

    prediction_type: "epsilon" or "v_prediction", in place of what the checkpoint says or shows.
    """
    opened = load_checkpoint(checkpoint, device=device)
    base = fingerprint(opened.unet)
    fuse_loras(opened, loras)
    return (with_prediction(opened, prediction_type) if prediction_type else opened), base


def with_prediction(checkpoint: Checkpoint, prediction_type: str) -> Checkpoint:
    """The same checkpoint, taken to predict this."""
    config = checkpoint.scheduler.config
    return replace(checkpoint, scheduler=DDIMScheduler.from_config(config, prediction_type=prediction_type))


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a job will need beside the network's weights, and bytes free; `available` is None where unknown.

    checkpointing: whether gradient checkpointing is on; None for a job without gradients.
    """

    needed: int
    available: int | None
    fits: bool
    checkpointing: bool | None = None

    @classmethod
    def on(cls, device: torch.device, needed: int, *, checkpointing: bool | None = None) -> "MemoryPlan":
        """Holds the need against what the device has free now."""
        return cls(with_losses(needed, device), available_memory(device), fits(needed, device), checkpointing)


def choose_device(name: str = "auto") -> torch.device:
    """Opens the device of that name; "auto" is the GPU if CUDA has one, else the CPU. TavError for what is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TavError(f"The device {name!r} cannot be used here ({reason}); choose auto, cpu or cuda.") from error


def ensure_room(folder: Path, needed: int) -> None:
    """Refuses to start what will need more bytes on the disk than are free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TavError(
            f"{folder} has {free / 2**20:.0f} MiB free, and this run will write {needed / 2**20:.0f} MiB there; "
            "free some space or choose another place."
        )


def ensure_prompt(prompt: str, what: str) -> None:
    """Refuses an empty sentence where one is needed; `what` names it."""
    if not prompt.strip():
        raise TavError(f"{what} is empty; describe the video in a sentence, such as 'a man is skiing'.")


def unseen_words(checkpoint: Checkpoint, prompts: list[str]) -> list[str]:
    """A sentence for each prompt that is longer than the model reads, with the words that it will not see."""
    cut = {prompt: checkpoint.truncated_words(prompt) for prompt in dict.fromkeys(prompts)}
    return [
        f"The model reads 77 tokens of a prompt; these words are cut off: {words}" for words in cut.values() if words
    ]


def versions() -> dict[str, str]:
    """The versions that made a result: ours, torch's and diffusers'."""
    return {"tune-a-video": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
