"""What Keep From Source and Mask From Words cannot be combined with, and the clips and prompts they are not for."""

import math
from collections.abc import Mapping, Sequence

import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import Sampler
from torch import Tensor

from ...tav_core.errors import TavError
from ...tav_core.source import SourcePath
from .latents import ends_at
from .noise import NOISY
from .replacements import has_others


def check_options(model_options: Mapping, node: str) -> None:
    """Raises TavError for other nodes' changes that the source cannot follow."""
    check_calls(model_options, node)
    options = model_options.get("transformer_options", {})
    # these tile, merge or skip each call in another way, so that what the source lends would not fit
    for patch in options.get("patches", {}).get("attn1_patch", ()):
        for name, title in (("HyperTile", "HyperTile"), ("Tome", "Token Merging")):
            if name in getattr(patch, "__qualname__", ""):
                raise TavError(f"{node} does not work with {title}; remove one of the two nodes.")


def check_calls(model_options: Mapping, node: str) -> None:
    """Raises TavError for nodes that divide a prediction themselves, or answer for one without the network."""
    if "context_handler" in model_options:
        raise TavError(
            f"{node} does not work with Context Windows; remove that node. Video Windows divides long videos."
        )
    for wrappers in model_options.get("transformer_options", {}).get("wrappers", {}).values():
        for key, title in (("easycache", "EasyCache"), ("lazycache", "LazyCache")):
            if wrappers.get(key):
                raise TavError(f"{node} does not work with {title}; remove one of the two nodes.")


def check_cross_attention(model_options: Mapping) -> None:
    """Raises TavError if another node replaces cross-attention, which keeping a layout has to itself."""
    if has_others(model_options, "attn2"):
        raise TavError(
            "Another node replaces cross-attention, as IP-Adapter does, and so does keep_layout; set keep_layout to 0, "
            "or remove that node."
        )


def check_clip(
    path: SourcePath, noise: Tensor, latents: Tensor, sampler: Sampler, sigmas: Tensor, patcher: ModelPatcher
) -> None:
    """Raises TavError for the inverted noise of another clip."""
    from_noise = len(sigmas) and math.isclose(sigmas[0].item(), path.sigmas[-1], rel_tol=1e-3)
    own = getattr(sampler, "takes_inverted_noise", False) or not noise.any()
    noisy = patcher.model.process_latent_in(latents)
    if from_noise and own and noisy.square().mean().sqrt() > NOISY and not ends_at(path, noisy):
        raise TavError(
            "The latents to sample are not the ones that Keep From Source got; connect the same output of DDIM Invert "
            "to both."
        )


def ids_of(edit: list, conditions: Sequence[dict]) -> set:
    """The ids of those conditions that are this CONDITIONING; raises TavError if none is."""
    given = [text for text, _ in edit]

    def same(one: Tensor) -> bool:
        return any(one.shape == text.shape and torch.allclose(one.float().cpu(), text.float().cpu()) for text in given)

    ids = {one["uuid"] for one in conditions if same(one["model_conds"]["c_crossattn"].cond)}
    if not ids:
        raise TavError(
            "keep_layout was set up for another prompt than the sampler's positive one; connect the same conditioning "
            "to edit of Keep From Source and to the sampler."
        )
    return ids
