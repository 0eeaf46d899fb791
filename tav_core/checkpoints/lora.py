"""Fuses LoRA files of all common formats into a checkpoint before it is inflated, with diffusers and peft."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import diffusers
import transformers
from torch import Tensor

from ..errors import TavError, need
from .checkpoint import Checkpoint
from .lora_file import layers_of, read_lora

STRENGTHS = -10.0, 10.0
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"  # the strength in FILE:STRENGTH


@dataclass(frozen=True)
class Lora:
    """A LoRA file and its strength, for UNet and text encoder alike; 1 applies it in full, 0 not at all."""

    path: str | os.PathLike
    strength: float = 1.0

    def __post_init__(self):
        low, high = STRENGTHS
        need(low <= self.strength <= high, "The strength of a LoRA", self.strength, f"from {low:g} to {high:g}")

    @classmethod
    def parse(cls, text: str) -> "Lora":
        """Parses FILE[:STRENGTH], as given in the shell."""
        match = re.fullmatch(rf"(.+?):({NUMBER})", text)
        return cls(Path(match[1]), float(match[2])) if match and not Path(text).exists() else cls(Path(text))

    def as_metadata(self) -> dict:
        """Its JSON metadata, without the folder."""
        return {"file": self.name, "strength": self.strength}

    @property
    def name(self) -> str:
        """The file name, without the folder."""
        return Path(self.path).name


def fuse_loras(checkpoint: Checkpoint, loras: Sequence[Lora]) -> None:
    """Adds LoRAs to the weights of a checkpoint's UNet and text encoder, in place.

    Supports the key styles of kohya's scripts, of diffusers (old and new) and of peft. Raises TavError for a file that
    is not a LoRA, was made for another family, or would be applied only in part.
    """
    if not loras:
        return
    opened = [(lora, read_lora(Path(lora.path), checkpoint.family)) for lora in loras]
    # Stable Diffusion 2.x does not use the last layer of its text encoder, but some trainers train it
    unused = re.compile(
        rf"^(lora_te1?_|text_encoder\.).*layers[._]{checkpoint.text_encoder.config.num_hidden_layers}[._]"
    )
    for lora, tensors in opened:
        _fuse(checkpoint, lora, {key: tensor for key, tensor in tensors.items() if not unused.match(key)})


def _fuse(checkpoint: Checkpoint, lora: Lora, tensors: dict[str, Tensor]) -> None:
    try:
        from diffusers import StableDiffusionPipeline  # slow to import, and needed only here
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ModuleNotFoundError as error:
        raise TavError(f"LoRAs need {error.name}: pip install 'peft>=0.14', or 'tune-a-video[lora]'.") from error
    pipeline = StableDiffusionPipeline(
        vae=checkpoint.vae,
        text_encoder=checkpoint.text_encoder,
        tokenizer=checkpoint.tokenizer,
        unet=checkpoint.unet,
        scheduler=checkpoint.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    networks = checkpoint.unet, checkpoint.text_encoder
    with _quiet():
        try:
            for part in _by_network(tensors):
                pipeline.load_lora_weights(part, adapter_name="lora", unet_config=checkpoint.unet.config)
        except (ValueError, RuntimeError, KeyError, IndexError) as error:
            pipeline.unload_lora_weights()
            reason = re.split(r"[{\n]", str(error).strip())[0][:150].strip()
            raise TavError(f"{lora.name} does not fit this checkpoint ({reason}): choose another LoRA.") from error
    given = len(layers_of(tensors))
    taken = len([module for network in networks for module in network.modules() if isinstance(module, BaseTunerLayer)])
    if given != taken:
        pipeline.unload_lora_weights()
        raise TavError(
            f"{lora.name} changes {given} layers, of which this checkpoint has {taken}: choose a LoRA made for its "
            "family."
        )
    pipeline.fuse_lora(lora_scale=lora.strength)
    pipeline.unload_lora_weights()


def _by_network(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The UNet's tensors and the text encoder's, as far as there are any: diffusers takes one key style at a time."""
    text = {key: tensor for key, tensor in tensors.items() if key.startswith("text_encoder.")}
    return [part for part in ({k: t for k, t in tensors.items() if k not in text}, text) if part]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences progress bars, and warnings about LoRAs for only one network, of diffusers and transformers."""
    was_shown = transformers.utils.logging.is_progress_bar_enabled()
    levels = {library: library.utils.logging.get_verbosity() for library in (diffusers, transformers)}
    transformers.utils.logging.disable_progress_bar()
    for library in levels:
        library.utils.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        for library, level in levels.items():
            library.utils.logging.set_verbosity(level)
        if was_shown:
            transformers.utils.logging.enable_progress_bar()
