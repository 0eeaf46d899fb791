"""LoRA files as people share them, fused into a checkpoint before it is inflated; diffusers and peft do the work."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .checkpoint import Checkpoint
from .errors import TavError, need
from .families import check_addition, family_of_addition

STRENGTHS = -10.0, 10.0
# What other ways of storing a change look like. diffusers would leave some of them out without a word.
OTHER_KINDS = (
    (r"hada_w1", "a LoHa"),
    (r"lokr_w", "a LoKr"),
    (r"dora_scale|lora_magnitude_vector", "a DoRA"),
    (r"lora_mid|lora_t2", "a LoRA in Tucker decomposition"),
    (r"\.oft_|oft_blocks", "an OFT"),
    (r"^bundle_emb\.|^(emb_params|string_to_param)", "a textual inversion embedding"),
    (r"\.(diff|diff_b|w_norm|a1\.weight)$", "more than a LoRA (a difference of whole weights)"),
)


@dataclass(frozen=True)
class Lora:
    """A file and how much of it is applied, to UNet and text encoder alike; 1 is all of it, 0 nothing."""

    path: Path
    strength: float = 1.0

    def __post_init__(self):
        low, high = STRENGTHS
        need(low <= self.strength <= high, "The strength of a LoRA", self.strength, f"from {low:g} to {high:g}")

    @classmethod
    def parse(cls, text: str) -> "Lora":
        """Reads FILE[:STRENGTH], as the shell takes it."""
        match = re.fullmatch(r"(.+?):(-?\d*\.?\d+)", text)
        return cls(Path(match[1]), float(match[2])) if match and not Path(text).exists() else cls(Path(text))

    def facts(self) -> dict:
        """As JSON holds it, without the folder."""
        return {"file": self.path.name, "strength": self.strength}


def fuse_loras(checkpoint: Checkpoint, loras: Sequence[Lora]) -> None:
    """Adds LoRAs to the weights of a checkpoint's UNet and text encoder, in place.

    Takes the key styles of kohya's scripts, of diffusers (all of its ages) and of peft. Raises TavError for a file
    that is no LoRA, is made for another family, or would be applied only in part.
    """
    if not loras:
        return
    opened = [(lora, _read(lora.path)) for lora in loras]
    for lora, tensors in opened:
        family = family_of_addition({key: tuple(t.shape) for key, t in tensors.items()}, lora.path.name, "LoRA")
        check_addition(family, checkpoint.family, lora.path.name, "LoRA")
    # Stable Diffusion 2.x leaves the last of its text encoder's layers out, and some trainers do not
    unused = re.compile(
        rf"^(lora_te_|text_encoder\.).*layers[._]{checkpoint.text_encoder.config.num_hidden_layers}[._]"
    )
    for lora, tensors in opened:
        _fuse(checkpoint, lora, {key: tensor for key, tensor in tensors.items() if not unused.match(key)})


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise TavError(f"There is no LoRA at {path}: give a .safetensors file, and its strength behind a colon.")
    if path.suffix.lower() != ".safetensors":
        raise TavError(f"{path.name} is no .safetensors file: download the LoRA in that format.")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise TavError(f"{path.name} is no whole .safetensors file ({error}): download it again.") from error
    listing = "\n".join(tensors)
    for pattern, kind in OTHER_KINDS:
        if re.search(pattern, listing, re.MULTILINE):
            raise TavError(f"{path.name} is {kind}, and only LoRAs can be fused here: apply it in ComfyUI.")
    if "lora" not in listing:
        raise TavError(f"{path.name} is no LoRA, as far as its {len(tensors)} tensors tell: choose a LoRA.")
    return _prefixed(tensors)


def _prefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where nothing says whose they are, as in the files of diffusers' early days and of peft, they are the UNet's."""
    prefixes = ("unet.", "text_encoder.", "lora_")
    tensors = {key.removeprefix("base_model.model."): tensor for key, tensor in tensors.items()}
    return {key if key.startswith(prefixes) else f"unet.{key}": tensor for key, tensor in tensors.items()}


def _fuse(checkpoint: Checkpoint, lora: Lora, tensors: dict[str, Tensor]) -> None:
    try:
        from diffusers import StableDiffusionPipeline  # slow to import, and needed for nothing else
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
            pipeline.load_lora_weights(tensors, unet_config=checkpoint.unet.config)
        except (ValueError, RuntimeError, KeyError, IndexError) as error:
            pipeline.unload_lora_weights()
            reason = str(error).strip().splitlines()[0][:200]
            raise TavError(f"{lora.path.name} does not fit this checkpoint ({reason}): choose another LoRA.") from error
    given = len([key for key in tensors if re.search(r"(down|lora_A)(\.default)?\.weight$", key)])
    taken = len([module for network in networks for module in network.modules() if isinstance(module, BaseTunerLayer)])
    if given != taken:
        pipeline.unload_lora_weights()
        raise TavError(
            f"{lora.path.name} changes {given} layers, of which this checkpoint has {taken}: choose a LoRA that was "
            "made for its family."
        )
    pipeline.fuse_lora(lora_scale=lora.strength)
    pipeline.unload_lora_weights()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bar that transformers shows while it loads a text encoder's part."""
    was_shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            transformers.utils.logging.enable_progress_bar()
