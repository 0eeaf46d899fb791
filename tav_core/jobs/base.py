"""What tuning and edit jobs share: the open checkpoint, the device, and checks of prompts, memory and disk space."""

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
from ..checkpoints.prompt_weights import notes_on
from ..errors import TavError, is_text, shown
from ..fingerprints import fingerprint
from ..memory import available_memory, fits, with_losses
from ..tuned_facts import TunedFacts
from ..version import __version__


@dataclass(frozen=True, eq=False)
class Base:
    """An open float32 checkpoint with LoRAs fused into it; made by `open_base`.

    fingerprint: of its UNet before the LoRAs were fused.
    """

    path: Path
    checkpoint: Checkpoint
    fingerprint: str
    loras: tuple[Lora, ...] = ()

    def predicting(self, prediction_type: str) -> "Base":
        """The same base with another prediction type, "epsilon" or "v_prediction"."""
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
    """Opens a checkpoint for one job, which is free to modify its UNet.

    checkpoint: a path, or an open Base, which is kept intact for other jobs: its UNet is copied, LoRAs included.
    prediction_type: "epsilon" or "v_prediction"; overrides what is read from the checkpoint.
    """
    if isinstance(checkpoint, Base):
        if loras:
            raise TavError("This checkpoint is already open; pass the LoRAs when opening it instead.")
        own = replace(checkpoint.checkpoint, unet=copy.deepcopy(checkpoint.checkpoint.unet))
        base = replace(checkpoint, checkpoint=own)
    else:
        opened = load_checkpoint(checkpoint, device=device)
        base = Base(Path(checkpoint), opened, fingerprint(opened.unet), tuple(loras))
        fuse_loras(opened, loras)
    return base.predicting(prediction_type) if prediction_type else base


def open_as_tuned(
    checkpoint: Path | Base, facts: TunedFacts, loras: Sequence[Lora], prediction_type: str | None
) -> Base:
    """Opens the checkpoint; if it is the one that was tuned, it keeps the prediction type of the tuning."""
    base = open_base(checkpoint, loras=loras, prediction_type=prediction_type)
    if prediction_type is None and facts.prediction_type and base.fingerprint == facts.base_fingerprint:
        return base.predicting(facts.prediction_type)
    return base


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes a job needs on top of the network's weights, and bytes free; `available` is None if unknown.

    checkpointing: whether gradient checkpointing is on; None for a job without gradients.
    """

    needed: int
    available: int | None
    fits: bool
    checkpointing: bool | None = None

    @classmethod
    def on(cls, device: torch.device, needed: int, *, checkpointing: bool | None = None) -> "MemoryPlan":
        """Compares what is needed with what the device has free now."""
        return cls(with_losses(needed, device), available_memory(device), fits(needed, device), checkpointing)


def choose_device(name: str = "auto") -> torch.device:
    """Returns the named device; "auto" is the GPU if there is one, else the CPU. TavError if it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TavError(f"The device {shown(name)} cannot be used here ({reason}); choose auto, cpu or cuda.") from error


def ensure_room(folder: Path, needed: int) -> None:
    """Raises TavError if a run needs more bytes of disk space than are free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TavError(
            f"{folder} has {free / 2**20:.0f} MiB free, but this run needs {needed / 2**20:.0f} MiB there; "
            "free some space or choose another folder."
        )


def ensure_prompt(prompt: str, what: str) -> None:
    """Raises TavError for an empty prompt; `what` names it in the message."""
    if not prompt.strip():
        raise TavError(f"{what} is empty; describe the video, for example 'a man is skiing'.")
    if not prompt.isascii() and not is_text(prompt):
        raise TavError(f"{what}, {shown(prompt)}, holds half a character (a lone surrogate); type it again.")


def unseen_words(checkpoint: Checkpoint, prompts: list[str]) -> list[str]:
    """A warning for each prompt that is too long for the text encoder, with the words that are cut off.

    And one for what other programs would not read as words.
    """
    prompts = list(dict.fromkeys(prompts))
    cut_off = [checkpoint.truncated_words(prompt) for prompt in prompts]
    notes = [f"The model reads 77 tokens of a prompt; these words are cut off: {words}" for words in cut_off if words]
    return notes + [note for prompt in prompts for note in notes_on(prompt)]


def versions() -> dict[str, str]:
    """The versions of this package, torch and diffusers, as recorded with results."""
    return {"tune-a-video": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
