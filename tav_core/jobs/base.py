"""What tuning jobs and edit jobs share: a clip and its frames, a checkpoint, room for results, a device, memory."""

import copy
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
import torch
from diffusers import DDIMScheduler

from ..checkpoints.checkpoint import Checkpoint, load_checkpoint
from ..checkpoints.lora import Lora, fuse_loras
from ..errors import TavError
from ..fingerprints import fingerprint
from ..memory import available_memory, fits, with_losses
from ..version import __version__


@dataclass(frozen=True, eq=False)
class Base:
    """An open checkpoint, in float32, with LoRAs fused into it; made by `open_base`.

    fingerprint: of its UNet without the LoRAs.
    """

    path: Path
    checkpoint: Checkpoint
    fingerprint: str
    loras: tuple[Lora, ...] = ()

    def predicting(self, prediction_type: str) -> "Base":
        """The same base, whose network is taken to predict "epsilon" or "v_prediction"."""
        config = self.checkpoint.scheduler.config
        scheduler = DDIMScheduler.from_config(config, prediction_type=prediction_type)
        return replace(self, checkpoint=replace(self.checkpoint, scheduler=scheduler))


def open_base(
    checkpoint: str | os.PathLike | Base,
    *,
    loras: Sequence[Lora] = (),
    prediction_type: str | None = None,
    device: torch.device | None = None,
) -> Base:
    """Opens a checkpoint for one job, which may change its UNet.

    checkpoint: a path, or a Base that stays open for further jobs; of that the UNet is copied, and its LoRAs stay.
    prediction_type: "epsilon" or "v_prediction", in place of what the checkpoint says or shows.
    """
    if isinstance(checkpoint, Base):
        if loras:
            raise TavError("This checkpoint is open already; open it with the LoRAs instead of adding them later.")
        own = replace(checkpoint.checkpoint, unet=copy.deepcopy(checkpoint.checkpoint.unet))
        base = replace(checkpoint, checkpoint=own)
    else:
        opened = load_checkpoint(checkpoint, device=device)
        base = Base(Path(checkpoint), opened, fingerprint(opened.unet), tuple(loras))
        fuse_loras(opened, loras)
    return base.predicting(prediction_type) if prediction_type else base


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
    """Refuses an empty prompt where one is needed; `what` names it."""
    if not prompt.strip():
        raise TavError(f"{what} is empty; describe the video, for example 'a man is skiing'.")


def unseen_words(checkpoint: Checkpoint, prompts: list[str]) -> list[str]:
    """A sentence for each prompt that is longer than the model reads, with the words that it will not see."""
    cut = {prompt: checkpoint.truncated_words(prompt) for prompt in dict.fromkeys(prompts)}
    return [
        f"The model reads 77 tokens of a prompt; these words are cut off: {words}" for words in cut.values() if words
    ]


def versions() -> dict[str, str]:
    """The versions that made a result: ours, torch's and diffusers'."""
    return {"tune-a-video": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
