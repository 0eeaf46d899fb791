"""Prepares an edit from files: clip, tuned weights, checkpoint, LoRAs and controls."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.lora import Lora
from ..control import Control
from ..errors import TavError
from ..files import ensure_writable
from ..fingerprints import digest_of, inversion_key, schedule_of
from ..inflate import InflatedUNet, inflate
from ..memory import decoding_memory, inference_memory
from ..prompt import Prompt
from ..tuned import TunedWeights
from ..tuned_facts import TunedFacts, missing_names, sibling_note
from ..video.sound import read_sound
from .base import Base, MemoryPlan, ensure_prompt, open_as_tuned, unseen_words
from .control_choice import ControlChoice
from .edit_config import EditConfig
from .edit_run import INVERSION, RECONSTRUCTION, SHEET, EditRun
from .keeping import prepare_keeping
from .kept_inversion import Inversion
from .made_with import MANIFEST
from .mask_choice import MaskChoice
from .original_weights import load_weights
from .selection import Selection


def prepare_edit(
    clip: str | os.PathLike | Selection,
    weights: str | os.PathLike,
    checkpoint: str | os.PathLike | Base | None,
    prompts: Sequence[str],
    folder: str | os.PathLike,
    *,
    config: EditConfig,
    changed: Mapping = {},
    loras: Sequence[Lora] = (),
    controls: Sequence[ControlChoice] = (),
    mask: MaskChoice | None = None,
    prediction_type: str | None = None,
    device: torch.device,
    on_step: Callable | None = None,
) -> EditRun:
    """Checks the inputs, reads the clip, opens checkpoint and weights, and encodes; nothing is sampled yet.

    clip: a Selection, or a path; then the frames are selected as for tuning, except for the fields of Selection in
        `changed`.
    weights: a file of tuned weights, or the output folder of the original Tune-A-Video; `checkpoint` may be None if
        that folder holds a whole one.
    checkpoint, loras, prediction_type: as in `open_base`. controls: guide inversion and edits by their images.
    mask: where the edit may change the clip; None for everywhere.
    on_step: called as (step, total, part="encoding") after each frame that is encoded.
    Raises TavError for invalid inputs, and for weights that do not fit the checkpoint.
    """
    folder, seconds = Path(folder), {}
    _check_prompts(prompts)
    path = checkpoint.path if isinstance(checkpoint, Base) else checkpoint
    tuned = load_weights(weights, path)
    path = Path(path or _own_checkpoint(Path(weights), tuned))
    selection = clip if isinstance(clip, Selection) else selection_as_tuned(Path(clip), tuned.facts, changed)
    ensure_writable(folder)
    _protect_inputs(folder, selection.clip, Path(weights), path)
    began = time.perf_counter()
    frames = selection.read()
    config = _divided_as_tuned(config, tuned.facts, len(frames.frames))
    base = open_as_tuned(checkpoint if isinstance(checkpoint, Base) else path, tuned.facts, loras, prediction_type)
    opened, dtype = base.checkpoint, config.dtype(device)
    notes = [*frames.notes]
    keeping = prepare_keeping(config, mask, selection, tuned.facts.prompt, prompts, opened, notes)
    unet = inflate(opened.unet, tuned.facts.inflation)
    tuned.apply(unet, config.strength)
    unet.to(device, dtype)
    controlled = tuple(control.open(selection, unet.unet, device, dtype, notes) for control in controls)
    opened.to(device)  # the VAE stays in float32: many SD 1.5 VAEs overflow in fp16
    seconds["loading"] = time.perf_counter() - began

    began = time.perf_counter()
    all_prompts = [config.inversion_prompt, config.negative_prompt, *prompts]
    all_prompts = list(dict.fromkeys(all_prompts + [keeping.source_prompt] * (keeping.source_prompt is not None)))
    # one by one: in a batch, the last digits depend on the other prompts, and the kept inversion would never match
    encoded = {prompt: opened.encode_prompt(prompt) for prompt in all_prompts}
    latents = opened.encode_video(frames.frames, on_step=on_step).float()
    seconds["encoding"] = time.perf_counter() - began
    used = {
        "loras": [lora.as_metadata() for lora in base.loras],
        "controls": [control.as_metadata() for control in controls],
        "mask": mask and mask.as_metadata(),
    }
    key = _key(base, unet, tuned, latents, encoded[config.inversion_prompt], controlled, config)
    return EditRun(
        selection=selection,
        clip=frames,
        checkpoint=opened,
        unet=unet,
        sound=read_sound(selection.clip, frames.start, frames.seconds),
        latents=latents,
        encoded=encoded,
        prompts=prompts,
        config=config,
        folder=folder,
        sources={"clip": selection.clip, "weights": Path(weights), "checkpoint": path},
        used=used,
        controls=controlled,
        keeping=keeping,
        key=key,
        kept=Inversion.load(folder / INVERSION, key) if config.from_inversion else None,
        memory=_memory(opened, unet, latents, config),
        notes=[*notes, *unseen_words(opened, all_prompts), *_differences(tuned.facts, base, used)],
        seconds=seconds,
    )


def selection_as_tuned(clip: Path, facts: TunedFacts, changed: Mapping) -> Selection:
    """Selects the frames the weights were tuned on, except for the fields in `changed`."""
    fields = {name: getattr(facts, name) for name in ("frames", "size", "start", "stride", "fit", "by_time")}
    if changed.get("stride") or (fields["by_time"] is None and fields["stride"] is not None):
        fields["by_time"] = False  # a stride counts frames, and so did versions that did not say
    return Selection(clip, **{name: value for name, value in fields.items() if value is not None} | dict(changed))


def _divided_as_tuned(config: EditConfig, facts: TunedFacts, num_frames: int) -> EditConfig:
    """The settings with a window, by default that of the tuning."""
    window = config.window
    if window is None:
        tuned = (facts.config or {}).get("window", 0)
        window = tuned if isinstance(tuned, int) and 2 <= tuned < num_frames else 0
    if config.overlap and not window:
        raise TavError("The overlap is that of windows, but the clip is edited whole; also give --window.")
    config = replace(config, window=window)
    config.windows.check(num_frames)
    return config if config.windows.divides(num_frames) else replace(config, window=0, overlap=None)


def _check_prompts(prompts: Sequence[str]) -> None:
    if not prompts:
        raise TavError("There is no prompt; give at least one.")
    for number, prompt in enumerate(prompts, 1):
        ensure_prompt(prompt, f"Prompt {number} of {len(prompts)}")


def _own_checkpoint(weights: Path, tuned: TunedWeights) -> Path:
    """The folder the original saved is itself a checkpoint; a file of tuned weights is not."""
    if weights.is_file():
        base = tuned.facts.checkpoint or "or one of its family"
        raise TavError(f"{weights.name} needs the checkpoint it was tuned on, {base}; give it with --checkpoint.")
    return weights


def _key(
    base: Base,
    unet: InflatedUNet,
    tuned: TunedWeights,
    latents: Tensor,
    prompt: Prompt,
    controls: Sequence[Control],
    config: EditConfig,
) -> str:
    return inversion_key(
        latents,
        *prompt.tensors,
        *(tensor for _, tensor in sorted(tuned.tensors.items())),
        *(control.images for control in controls),
        controls=[[digest_of(c.network), c.strength, c.start, c.end] for c in controls],
        base=base.fingerprint,
        unet=digest_of(base.checkpoint.unet),
        inflation=unet.inflation.decisive(),
        **config.of_inversion(),
        dtype=str(unet.dtype),
        scheduler=schedule_of(base.checkpoint.scheduler),
    )


def _memory(opened: Checkpoint, unet: InflatedUNet, latents: Tensor, config: EditConfig) -> MemoryPlan:
    _, channels, frames, *size = latents.shape
    shape = channels, min(frames, config.window or frames), *size
    if config.dials:  # the clip, the prompt and the negative prompt then run one after the other
        kept = {"structure": config.keep_structure > 0, "layout": config.keep_layout > 0}
        sampling = inference_memory(unet, (1, *shape), **kept)
    else:
        batch = 2 if config.guidance_scale > 1 else 1  # guidance also runs the negative prompt
        sampling = inference_memory(unet, (batch, *shape))
    return MemoryPlan.on(latents.device, max(sampling, decoding_memory(opened.vae, *latents.shape[-2:])))


def _differences(facts: TunedFacts, base: Base, used: dict[str, list[dict]]) -> list[str]:
    """A warning for each difference from how the weights were tuned."""
    sibling = sibling_note(facts, base.path.name, base.fingerprint)
    notes = [sibling] if sibling else []
    for kind, name, option in (("loras", "file", "--lora"), ("controls", "network", "--control")):
        if absent := missing_names(getattr(facts, kind), {each[name] for each in used[kind]}, name):
            notes.append(f"The weights were tuned with {absent}, which this edit does not use; add {option} to match.")
    return notes


def _protect_inputs(folder: Path, *sources: Path) -> None:
    """Refuses an output folder where a result would overwrite an input."""
    for name in (INVERSION, f"{RECONSTRUCTION}.mp4", SHEET, MANIFEST):
        if any((folder / name).absolute() == source.absolute() for source in sources):
            raise TavError(f"The edit would overwrite {folder / name}; choose another output folder.")
