"""Reads LoRA files of all common key styles into one form: pairs of matrices whose product is the weight change."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TavError, brief, shown
from ..families import check_addition, family_of_addition
from ..files import read_header
from .configs import read_json
from .networks import ensure_numbers, read_safetensors

# Tensor names in other formats of weight changes, some of which diffusers would silently skip.
OTHER_KINDS = (
    (r"hada_w1", "a LoHa"),
    (r"lokr_w", "a LoKr"),
    (r"dora_scale|lora_magnitude_vector", "a DoRA"),
    (r"lora_mid|lora_t2", "a LoRA in Tucker decomposition"),
    (r"lora_[AB](\.default)?\.bias$|lora_bias", "a LoRA with biases"),
    (r"\.oft_|oft_blocks", "an OFT"),
    (r"^bundle_emb\.|^(emb_params|string_to_param)", "a textual inversion embedding"),
    (r"\.(diff|diff_b|w_norm|a1\.weight)$", "more than a LoRA (a difference of whole weights)"),
)
# of kohya, peft, diffusers in 2023 (UNet and text encoder), and diffusers' first LoRAs
STYLES = {
    ".lora_down": "down",
    ".lora_up": "up",
    ".lora_A": "down",
    ".lora_B": "up",
    ".lora.down": "down",
    ".lora.up": "up",
    ".lora_linear_layer.down": "down",
    ".lora_linear_layer.up": "up",
    "_lora.down": "down",
    "_lora.up": "up",
}
KEY = re.compile(rf"(.+?)({'|'.join(map(re.escape, STYLES))})(?:\.default)?\.weight")
OWNERS = ("unet.", "text_encoder.", "lora_")
# a layer of the text encoder, in kohya's names and in dotted ones; the oldest call its projections as the UNet's
TEXT_LAYER = re.compile(
    r"(?:lora_te1?_|text_encoder\.)(?:text_model[._])?encoder[._]layers[._](\d+)[._](self_attn|mlp)[._](\w+)"
)
OLD_PROJECTIONS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def read_lora(path: Path, family: str) -> dict[str, Tensor]:
    """Reads tensors under keys that diffusers knows, all of one rank and scaled so that each change is up @ down.

    family: of the checkpoint, "sd1" or "sd2".

    Files scale each pair by alpha / rank; alpha is a tensor of its own, or in the header, or in peft's
    adapter_config.json, and diffusers respects it only if it is the same for all layers. Raises TavError for a file
    that is not a LoRA, was made for another family, or would be applied only in part.
    """
    if not path.is_file():
        raise TavError(f"There is no LoRA at {path}: give FILE or FILE:STRENGTH, such as style.safetensors:0.8.")
    if path.suffix.lower() != ".safetensors":
        raise TavError(f"{path.name} is not a .safetensors file: download the LoRA in that format.")
    tensors = read_safetensors(path)
    listing = "\n".join(tensors)
    for pattern, kind in OTHER_KINDS:
        if re.search(pattern, listing, re.MULTILINE):
            raise TavError(f"{path.name} is {kind}, but only LoRAs can be fused here: apply it in ComfyUI.")
    if "lora" not in listing:
        raise TavError(f"{path.name} is not a LoRA, judging by its {len(tensors)} tensors: choose a LoRA.")
    made_for = family_of_addition({key: tuple(t.shape) for key, t in tensors.items()}, path.name, "LoRA")
    check_addition(made_for, family, path.name, "LoRA")
    pairs, alphas, others = _sorted(tensors)
    halves = [layer for layer, pair in pairs.items() if len(pair) < 2]
    if unusable := [*halves, *others, *(layer for layer in alphas if layer not in pairs)]:
        raise TavError(
            f"{path.name} would be applied only in part, because {unusable[0]} is incomplete or unknown "
            f"({len(unusable)} such layers): download it again, or choose another LoRA."
        )
    ensure_numbers({key: tensor for pair in pairs.values() for key, tensor in pair.values()}, path.name)
    for layer, pair in pairs.items():
        shapes = down, up = [tuple(pair[half][1].shape) for half in ("down", "up")]
        if not all(len(shape) in (2, 4) and all(shape) for shape in shapes) or down[0] != up[1]:
            raise TavError(f"{path.name} is damaged: {layer} has the shapes {shapes}; download it again.")
    return _scaled(pairs, alphas, _settings(path))


def layers_of(tensors: Mapping[str, Tensor]) -> set[str]:
    """The layers that the tensors from `read_lora` change."""
    return {KEY.fullmatch(key)[1] for key in tensors}


def _sorted(tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict], dict[str, float], list[str]]:
    """{layer: {down: (key, tensor), up: ...}}, {layer: alpha}, and all other keys."""
    pairs, alphas, others = {}, {}, []
    for key, tensor in tensors.items():
        key = key.removeprefix("base_model.model.")
        # keys without a network's prefix, as in files of early diffusers and of peft, are the UNet's
        key = key if key.startswith(OWNERS) else f"unet.{key}"
        if match := KEY.fullmatch(key):
            layer, style = match.groups()
            pairs.setdefault(layer, {})[STYLES[style]] = _diffusers_key(layer, style), tensor
        elif key.endswith(".alpha"):
            alphas[key.removesuffix(".alpha").removesuffix("_lora")] = _number(tensor, key)
        else:
            others.append(key)
    return pairs, alphas, others


def _number(alpha: Tensor, key: str) -> float:
    if alpha.numel() == 1 and not alpha.is_complex() and alpha.dtype != torch.bool and alpha.float().isfinite():
        return alpha.item()
    raise TavError(f"The LoRA is damaged: {key} is not one number; download it again.")


def _diffusers_key(layer: str, style: str) -> str:
    """A key that diffusers knows whatever other layers the file has.

    It does not take kohya's style after the dotted layer names of other formats, and it judges all of a text encoder's
    keys by whether one of them is for a certain layer, except in this form.
    """
    if match := TEXT_LAYER.fullmatch(layer):
        number, block, part = match.groups()
        layer = f"text_encoder.text_model.encoder.layers.{number}.{block}.{OLD_PROJECTIONS.get(part, part)}"
        return f"{layer}.lora_linear_layer.{STYLES[style]}.weight"
    if style in (".lora_down", ".lora_up") and not layer.startswith("lora_"):
        style = {".lora_down": ".lora_A", ".lora_up": ".lora_B"}[style]
    return f"{layer}{style}.weight"


def _scaled(pairs: dict[str, dict], alphas: Mapping[str, float], settings: Mapping) -> dict[str, Tensor]:
    largest, scaled = max(len(pair["down"][1]) for pair in pairs.values()), {}
    for layer, pair in pairs.items():
        (down_key, down), (up_key, up) = pair["down"], pair["up"]
        rank = len(down)
        scale = alphas[layer] / rank if layer in alphas else _scale(layer, rank, settings)
        # padding with zeros changes nothing; without it diffusers would guess scales from ranks that differ
        scaled[down_key] = F.pad(down.float(), (0, 0) * (down.ndim - 1) + (0, largest - rank))
        scaled[up_key] = F.pad(scale * up.float(), (0, 0) * (up.ndim - 2) + (0, largest - rank))
    return scaled


def _scale(layer: str, rank: int, settings: Mapping) -> float:
    """The scale of a layer without its own alpha: by the settings of its network, else 1."""
    own = settings.get("text_encoder" if layer.startswith("text_encoder.") else "unet", {})
    named = (alpha for name, alpha in (own.get("alpha_pattern") or {}).items() if f".{layer}".endswith(f".{name}"))
    alpha = next(named, own.get("lora_alpha"))
    if alpha is None:
        return 1.0
    return alpha / (math.sqrt(rank) if own.get("use_rslora") else rank)


def _settings(path: Path) -> dict[str, dict]:
    """peft's settings of each network, from the header that diffusers writes or from peft's own file."""
    header = read_header(path).get("lora_adapter_metadata")
    beside = path.with_name("adapter_config.json")
    try:
        if header:
            settings = {"unet": {}, "text_encoder": {}}
            for name, value in _table(json.loads(header)).items():
                network, _, setting = name.partition(".")
                settings.setdefault(network, {})[setting] = value
        elif path.name.startswith("adapter_model") and beside.exists():
            settings = dict.fromkeys(("unet", "text_encoder"), _table(read_json(beside)))
        else:
            return {}
        for own in settings.values():
            alphas = [own.get("lora_alpha"), *_table(own.get("alpha_pattern") or {}).values()]
            if not all(alpha is None or (type(alpha) in (int, float) and math.isfinite(alpha)) for alpha in alphas):
                raise ValueError("an alpha is not a number")
            if own.get("use_rslora") not in (None, True, False):
                raise ValueError(f"use_rslora is {shown(own['use_rslora'])}")
        return settings
    except (ValueError, OSError, OverflowError, RecursionError) as error:
        raise TavError(f"The settings of {path.name} cannot be read ({brief(error)}): download it again.") from error


def _table(value: object) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"a table is needed, not {shown(value)}")
    return value
