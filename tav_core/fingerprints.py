"""Fingerprints of base models, runs and inversions: hashes of everything that determines each."""

from __future__ import annotations  # networks are only annotations, and diffusers is slow to import

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .prompt import Prompt, as_prompt
from .video.pixels import to_float

if TYPE_CHECKING:
    from diffusers import SchedulerMixin, UNet2DConditionModel

    from .control import Control
    from .inflate import InflatedUNet
    from .tune import TuneConfig

FREE = ("num_steps", "checkpoint_every", "gradient_checkpointing")
"""Settings that may change when a run resumes; apart from rounding, they do not affect what a step computes."""
SLICE = 16  # of a tensor's first dimension, so that a long clip's images need not be held as floats


def fingerprint(unet: InflatedUNet | UNet2DConditionModel, queries: Mapping[str, Tensor] | None = None) -> str:
    """Identifies a base model by `fingerprint_of` its weights.

    queries: the query projections before tuning; by default the network's own copies, if it was tuned.
    """
    queries = queries or getattr(unet, "base_queries", None) or {}
    return fingerprint_of({name: queries.get(name, tensor) for name, tensor in unet.state_dict().items()})


def fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of a network's attention projections in fp16, sorted by diffusers key.

    It is the same for a folder and a single file, in fp16 and fp32.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        if (".attn1." in name or ".attn2." in name) and name.endswith("weight"):
            digest.update(name.encode())
            digest.update(tensor.detach().to(torch.float16).cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def run_fingerprint(
    unet: InflatedUNet,
    latents: Tensor | tuple[Tensor, Tensor],
    prompt_embeds: Tensor | Prompt,
    scheduler: SchedulerMixin,
    config: TuneConfig,
) -> str:
    """Identifies a tuning run by what determines its result: base, inflation, clip, prompt, schedule, settings, device.

    The base is the network before it was first tuned, so an interrupted run can resume in the same process.
    """
    tensors = (latents,) if torch.is_tensor(latents) else latents
    settings = [
        [fingerprint(unet), digest_of(unet, without=unet.trainable_parameters())],
        [*unet.inflation.as_key(), str(unet.dtype), tensors[0].device.type],
        schedule_of(scheduler),
        config.decisive(),
    ]
    return _digest([*tensors, *as_prompt(prompt_embeds).tensors], settings)


def controlled_run(run: str, controls: Sequence[Control]) -> str:
    """Identifies a run with controls, given its `run_fingerprint` without them."""
    settings = [[digest_of(control.network), control.strength, control.start, control.end] for control in controls]
    digest = hashlib.sha256(json.dumps([run, settings]).encode())
    for control in controls:
        _add(digest, control.images)
    return digest.hexdigest()


def inversion_key(*tensors: Tensor, method: str, **settings) -> str:
    """Identifies an inversion by its method and all else that determines its result. settings: JSON-serializable."""
    return key_of(*tensors, method=method, **settings)


def key_of(*tensors: Tensor, **settings) -> str:
    """Identifies a result by the tensors and settings that determine it; SHA-256, hex. settings: JSON-serializable."""
    return _digest(tensors, settings)


def digest_of(network: nn.Module, without: Collection[str] = ()) -> str:
    """Identifies a network's weights, but for those of some names, as `digest_of_tensors`."""
    return digest_of_tensors(each for each in sorted(network.state_dict().items()) if each[0] not in without)


def digest_of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Identifies named tensors, in this order, by a sample of each; SHA-256, hex."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().flatten()[::1009].to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()


def schedule_of(scheduler: SchedulerMixin) -> dict:
    """A scheduler's settings, without diffusers' class name and version."""
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}


def _digest(tensors: Sequence[Tensor], settings: object) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        _add(digest, tensor)
    return digest.hexdigest()


def _add(digest, tensor: Tensor) -> None:
    """Adds a tensor's values as float32, a slice at a time; bytes are those of images and count as 0..1."""
    for part in tensor.detach().split(SLICE) if tensor.ndim else [tensor.detach()]:
        digest.update(to_float(part).to("cpu", torch.float32).contiguous().numpy().tobytes())
