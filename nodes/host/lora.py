"""Rejects LoRAs that the host would skip with only a line in its log."""

from collections.abc import Iterator

from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ...tav_core.errors import TavError
from ...tav_core.families import NAMES, WIDTHS
from .sd_model import family_of


def check_loras(patcher: ModelPatcher) -> None:
    """Raises TavError if a LoRA on the MODEL does not fit its weights' shapes, because it is for another family."""
    weights = patcher.model.state_dict()
    for key, down, up in _pairs(patcher):
        weight = weights[key]
        if up.shape[0] == weight.shape[0] and down.shape[1:].numel() == weight.shape[1:].numel():
            continue
        width = down.shape[1]
        family = WIDTHS.get(width) if key.endswith("attn2.to_k.weight") else None
        made_for = f"for {NAMES.get(family, family)}" if family else "for another model"
        raise TavError(
            f"A LoRA on this MODEL was made {made_for}: it changes {key} from {width} to {up.shape[0]} channels, but "
            f"{NAMES[family_of(patcher)]} has {weight.shape[1]} to {weight.shape[0]}; remove it."
        )


def _pairs(patcher: ModelPatcher) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(key, down, up) of each plain LoRA; cross-attention's keys first, since they identify the family."""
    for key in sorted(patcher.patches, key=lambda key: "attn2.to_k" not in key):
        for _, adapter, _, offset, _ in patcher.patches[key]:
            # safe: the host's own order of a LoRA's parts; those with an offset, a Tucker core or a reshape are left
            # to the host
            if isinstance(adapter, LoRAAdapter) and offset is None:
                up, down, _, middle, _, reshaped = adapter.weights
                if middle is None and reshaped is None:
                    yield key, down, up
