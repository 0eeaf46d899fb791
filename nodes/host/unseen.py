"""What changes a MODEL's network at run time, which tuning would neither follow nor know a run by."""

from collections.abc import Iterator

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...tav_core.errors import TavError
from .inflate import KEY
from .replacements import has_others

HARMLESS = (KEY, "torch.compile", "easycache", "lazycache")
"""Keys of wrappers that compute the same network, or only act where a video is sampled."""


def check_unseen(patcher: ModelPatcher) -> None:
    """Raises TavError for such changes by other nodes. Guidance, which only sampling has, may pass."""
    if any(patcher.injections.values()):  # safe: the host's own list of what changes the network at run time
        raise TavError(
            "This MODEL is changed at run time, for example by Load LoRA (Bypass), which tuning would ignore; load the "
            "LoRA with Load LoRA instead."
        )
    if names := ", ".join(_changes(patcher)):
        raise TavError(
            f"Another node changes this MODEL at run time ({names}; IP-Adapter, FreeU, hypernetworks and HyperTile "
            "do), which tuning cannot follow; put that node behind One-Shot Tune."
        )


def _changes(patcher: ModelPatcher) -> Iterator[str]:
    options = patcher.model_options
    inner = options["transformer_options"]
    yield from (name for name, patches in inner.get("patches", {}).items() if patches)
    yield from (f"{name} replacement" for name in inner.get("patches_replace", {}) if has_others(options, name))
    if options.get("model_function_wrapper"):
        yield "function wrapper"
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        for wrappers in (patcher.wrappers, inner.get("wrappers", {})):
            found = wrappers.get(kind, {})
            yield from (f"{kind} wrapper {key or ''}".rstrip() for key in found if found[key] and key not in HARMLESS)
    yield from (name for name in patcher.object_patches if name.startswith("diffusion_model."))
