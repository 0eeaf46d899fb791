"""LoRAs on a MODEL: those that the host would pass over with no more than a line in its log."""

from collections.abc import Iterator

from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ...tav_core.errors import TavError
from ...tav_core.families import NAMES, WIDTHS
from .sd_model import family_of


def check_loras(patcher: ModelPatcher) -> None:
    """Raises TavError where a LoRA on the MODEL has other shapes than its weights, as one of another family has."""
    weights = patcher.model.state_dict()
    for key, down, up in _pairs(patcher):
        weight = weights[key]
        if up.shape[0] == weight.shape[0] and down.shape[1:].numel() == weight.shape[1:].numel():
            continue
        width = down.shape[1]
        family = WIDTHS.get(width) if key.endswith("attn2.to_k.weight") else None
        made_for = f"for {NAMES.get(family, family)}" if family else "for another model"
        raise TavError(
            f"A LoRA on this MODEL was made {made_for}: it changes {key} from {width} to {up.shape[0]} channels, where "
            f"{NAMES[family_of(patcher)]} has {weight.shape[1]} to {weight.shape[0]}; take it out."
        )


def _pairs(patcher: ModelPatcher) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(key, down, up) of each plain LoRA; the text's keys and values first, for they tell families apart."""
    for key in sorted(patcher.patches, key=lambda key: "attn2.to_k" not in key):
        for _, adapter, _, offset, _ in patcher.patches[key]:
            # safe: the host's own order of a LoRA's parts; with a part of a weight, in Tucker form or reshaped, none
            # of Stable Diffusion 1.x or 2.x is
            if isinstance(adapter, LoRAAdapter) and offset is None:
                up, down, _, middle, _, reshaped = adapter.weights
                if middle is None and reshaped is None:
                    yield key, down, up
