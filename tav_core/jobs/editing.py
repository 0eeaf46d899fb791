"""From an edit's files to a run that is ready to start: clip, weights, checkpoint, LoRAs and controls."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.lora import Lora
from ..control import Control
from ..errors import TavError
from ..files import ensure_writable
from ..fingerprints import digest_of, inversion_key, schedule_of
from ..inflate import InflatedUNet, inflate
from ..memory import decoding_memory, inference_memory
from ..tuned import TunedWeights
from ..tuned_facts import TunedFacts, missing_names, sibling_note
from .base import Base, MemoryPlan, ensure_prompt, open_base, unseen_words
from .control_choice import ControlChoice
from .edit_config import EditConfig
from .edit_run import INVERSION, MANIFEST, RECONSTRUCTION, SHEET, EditRun
from .kept_inversion import Inversion
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
    prediction_type: str | None = None,
    device,
) -> EditRun:
    """Checks everything, reads the clip, opens checkpoint and weights, and encodes; nothing is sampled yet.

    clip: a Selection, or a path, whose frames are then chosen as the weights were tuned, except for the fields of
        Selection that `changed` gives.
    weights: a file of tuned weights, or a result of the original Tune-A-Video; `checkpoint` may be None if that folder
        holds a whole one.
    checkpoint, loras, prediction_type: as `open_base` takes them. controls: hold inversion and edits to their images.
    Raises TavError for wrong inputs, also for weights that do not fit the checkpoint.
    """
    folder, seconds = Path(folder), {}
    _check_prompts(prompts)
    path = checkpoint.path if isinstance(checkpoint, Base) else checkpoint
    tuned = load_weights(weights, path)
    path = Path(path or _whole_result(Path(weights), tuned))
    selection = clip if isinstance(clip, Selection) else selection_as_tuned(Path(clip), tuned.facts, changed)
    ensure_writable(folder)
    _spare(folder, selection.clip, Path(weights), path)
    began = time.perf_counter()
    frames = selection.read()
    base = _opened(checkpoint if isinstance(checkpoint, Base) else path, tuned.facts, loras, prediction_type)
    opened, dtype = base.checkpoint, config.dtype(device)
    unet = inflate(opened.unet, tuned.facts.inflation)
    tuned.apply(unet, config.strength)
    unet.to(device, dtype)
    controlled = tuple(control.open(selection, unet.unet, device, dtype) for control in controls)
    opened.text_encoder.to(device)
    opened.vae.to(device)  # and stays in float32, for many a VAE of SD 1.5 overflows in fp16
    seconds["loading"] = time.perf_counter() - began

    began = time.perf_counter()
    texts = list(dict.fromkeys([config.inversion_prompt, config.negative_prompt, *prompts]))
    # one by one: in a batch, a text's last digits depend on its neighbours, and the inversion would not be found again
    embeds = {text: opened.encode_prompt(text) for text in texts}
    latents = opened.encode_video(frames.frames).float()
    seconds["encoding"] = time.perf_counter() - began
    used = {
        "loras": [lora.as_metadata() for lora in base.loras],
        "controls": [control.as_metadata() for control in controls],
    }
    key = _key(base, unet, tuned, latents, embeds[config.inversion_prompt], controlled, config)
    return EditRun(
        selection=selection,
        clip=frames,
        checkpoint=opened,
        unet=unet,
        latents=latents,
        embeds=embeds,
        prompts=prompts,
        config=config,
        folder=folder,
        sources={"clip": selection.clip, "weights": Path(weights), "checkpoint": path},
        used=used,
        controls=controlled,
        key=key,
        kept=Inversion.load(folder / INVERSION, key) if config.from_inversion else None,
        memory=_memory(opened, unet, latents, config),
        notes=unseen_words(opened, texts) + _differences(tuned.facts, base, used),
        seconds=seconds,
    )


def selection_as_tuned(clip: Path, facts: TunedFacts, changed: Mapping) -> Selection:
    """The frames that weights were tuned on, with some fields of Selection changed."""
    fields = {name: getattr(facts, name) for name in ("frames", "size", "start", "stride", "fit")}
    return Selection(clip, **{name: value for name, value in fields.items() if value is not None} | dict(changed))


def _check_prompts(prompts: Sequence[str]) -> None:
    if not prompts:
        raise TavError("There is no prompt; give at least one to edit the clip by.")
    for number, prompt in enumerate(prompts, 1):
        ensure_prompt(prompt, f"Prompt {number} of {len(prompts)}")


def _whole_result(weights: Path, tuned: TunedWeights) -> Path:
    """What the original saved is a checkpoint, too; a file of tuned weights is not."""
    if weights.is_file():
        tuned_on = tuned.facts.checkpoint or "or one of its family"
        raise TavError(
            f"{weights.name} goes onto a checkpoint; give the one that it was tuned on, {tuned_on} (--checkpoint)."
        )
    return weights


def _opened(checkpoint: Path | Base, facts: TunedFacts, loras: Sequence[Lora], prediction_type: str | None) -> Base:
    """The checkpoint; if it is the one that was tuned, it predicts what it did then."""
    base = open_base(checkpoint, loras=loras, prediction_type=prediction_type)
    if prediction_type is None and facts.prediction_type and base.fingerprint == facts.base_fingerprint:
        return base.predicting(facts.prediction_type)
    return base


def _key(
    base: Base,
    unet: InflatedUNet,
    tuned: TunedWeights,
    latents: Tensor,
    prompt_embeds: Tensor,
    controls: Sequence[Control],
    config: EditConfig,
) -> str:
    return inversion_key(
        latents,
        prompt_embeds,
        *(tensor for _, tensor in sorted(tuned.tensors.items())),
        *(control.images for control in controls),
        method="ddim",
        controls=[[digest_of(c.network), c.strength, c.start, c.end] for c in controls],
        base=base.fingerprint,
        unet=digest_of(base.checkpoint.unet),
        inflation=unet.inflation.as_metadata(),
        steps=config.inversion_steps,
        strength=config.strength,
        dtype=str(unet.dtype),
        scheduler=schedule_of(base.checkpoint.scheduler),
    )


def _memory(opened: Checkpoint, unet: InflatedUNet, latents: Tensor, config: EditConfig) -> MemoryPlan:
    batch = 2 if config.guidance_scale > 1 else 1  # with the negative prompt
    sampling = inference_memory(unet, (batch, *latents.shape[1:]))
    return MemoryPlan.on(latents.device, max(sampling, decoding_memory(opened.vae, *latents.shape[-2:])))


def _differences(facts: TunedFacts, base: Base, used: dict[str, list[dict]]) -> list[str]:
    """A note for each thing that differs from how the weights were tuned."""
    sibling = sibling_note(facts, base.path.name, base.fingerprint)
    notes = [sibling] if sibling else []
    for kind, name, option in (("loras", "file", "--lora"), ("controls", "network", "--control")):
        if absent := missing_names(getattr(facts, kind), {each[name] for each in used[kind]}, name):
            notes.append(
                f"The weights were tuned with {absent}, and this edit is without; add {option} to edit with it too."
            )
    return notes


def _spare(folder: Path, *sources: Path) -> None:
    """Refuses an output folder where a result would overwrite an input."""
    for name in (INVERSION, f"{RECONSTRUCTION}.mp4", SHEET, MANIFEST):
        if any((folder / name).absolute() == source.absolute() for source in sources):
            raise TavError(f"{folder / name} would be overwritten by a result of that name; choose another folder.")
