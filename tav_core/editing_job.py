"""From the files of an edit to a run that is ready to start: clip, weights, checkpoint, and what is laid over it."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import Checkpoint
from .control import Control
from .control_choice import ControlChoice
from .edit_config import EditConfig
from .edit_run import INVERSION, MANIFEST, RECONSTRUCTION, SHEET, EditRun
from .errors import TavError
from .files import ensure_writable
from .inflate import InflatedUNet, inflate
from .inversion import Inversion, digest_of, inversion_key
from .jobs import MemoryPlan, Selection, ensure_prompt, open_base, unseen_words, with_prediction
from .lora import Lora
from .memory import decoding_memory, inference_memory
from .original_weights import load_weights
from .tuned import TunedWeights


def prepare_edit(
    clip: str | os.PathLike,
    weights: str | os.PathLike,
    checkpoint: str | os.PathLike | None,
    prompts: Sequence[str],
    folder: str | os.PathLike,
    *,
    config: EditConfig,
    loras: Sequence[Lora] = (),
    controls: Sequence[ControlChoice] = (),
    prediction_type: str | None = None,
    device: torch.device,
    **selection,
) -> EditRun:
    """Checks everything, reads the clip, opens checkpoint and weights, and encodes; nothing is sampled yet.

    weights: a file of tuned weights, or a result of the original Tune-A-Video; `checkpoint` may be None for one that
        lies there whole.
    loras, prediction_type: as `open_base` takes them. controls: hold inversion and edits to pictures.
    selection: fields of `Selection` that shall differ from what the weights were tuned on.
    Raises TavError for what is wrong with the inputs, also for weights that do not fit the checkpoint.
    """
    folder, seconds = Path(folder), {}
    _check_prompts(prompts)
    tuned = load_weights(weights, checkpoint)
    checkpoint = Path(checkpoint or _whole_result(Path(weights), tuned))
    ensure_writable(folder)
    _spare(folder, Path(clip), Path(weights), checkpoint)
    began = time.perf_counter()
    chosen = _selection(Path(clip), tuned.facts, selection)
    frames = chosen.read()
    opened, base = _opened(checkpoint, tuned, loras, prediction_type)
    inflation = {name: tuned.facts[name] for name in ("attention", "group_norm", "temporal") if name in tuned.facts}
    unet = inflate(opened.unet, **inflation)
    tuned.apply(unet, config.strength)
    unet.to(device, config.dtype(device))
    controlled = tuple(control.open(chosen, unet.unet, device, config.dtype(device)) for control in controls)
    opened.text_encoder.to(device)
    opened.vae.to(device)  # and stays in float32, for many a VAE of SD 1.5 overflows in fp16
    seconds["loading"] = time.perf_counter() - began

    began = time.perf_counter()
    texts = list(dict.fromkeys([config.inversion_prompt, config.negative_prompt, *prompts]))
    # one by one: in a batch, a text's last digits depend on its neighbours, and the inversion would not be known again
    embeds = {text: opened.encode_prompt(text) for text in texts}
    latents = opened.encode_video(frames.frames).float()
    seconds["encoding"] = time.perf_counter() - began
    laid_over = {"loras": [lora.facts() for lora in loras], "controls": [control.facts() for control in controls]}
    key = _key(base, opened, unet, tuned, latents, embeds[config.inversion_prompt], controlled, config)
    return EditRun(
        selection=chosen,
        clip=frames,
        checkpoint=opened,
        unet=unet,
        latents=latents,
        embeds=embeds,
        prompts=prompts,
        config=config,
        folder=folder,
        sources={"clip": Path(clip), "weights": Path(weights), "checkpoint": checkpoint},
        laid_over=laid_over,
        controls=controlled,
        key=key,
        kept=Inversion.load(folder / INVERSION, key) if config.from_inversion else None,
        memory=_memory(opened, unet, latents, config),
        notes=unseen_words(opened, texts) + _differences(tuned.facts, checkpoint.name, base, laid_over),
        seconds=seconds,
    )


def _check_prompts(prompts: Sequence[str]) -> None:
    if not prompts:
        raise TavError("There is no prompt; give at least one sentence to edit the clip by.")
    for number, prompt in enumerate(prompts, 1):
        ensure_prompt(prompt, f"Prompt {number} of {len(prompts)}")


def _whole_result(weights: Path, tuned: TunedWeights) -> Path:
    """What the original saved is a checkpoint, too; a file of tuned weights is not."""
    if weights.is_file():
        tuned_on = tuned.facts.get("checkpoint") or "or one of its family"
        raise TavError(
            f"{weights.name} goes onto a checkpoint; give the one that it was tuned on, {tuned_on} (--checkpoint)."
        )
    return weights


def _opened(
    checkpoint: Path, tuned: TunedWeights, loras: Sequence[Lora], prediction_type: str | None
) -> tuple[Checkpoint, str]:
    """The checkpoint and its fingerprint; where it is the one that was tuned, it predicts what it did then."""
    opened, base = open_base(checkpoint, loras=loras, prediction_type=prediction_type)
    if prediction_type is None and base == tuned.facts.get("base_fingerprint"):
        opened = with_prediction(opened, tuned.facts.get("prediction_type", opened.scheduler.config.prediction_type))
    return opened, base


def _key(
    base: str,
    opened: Checkpoint,
    unet: InflatedUNet,
    tuned: TunedWeights,
    latents: Tensor,
    prompt_embeds: Tensor,
    controls: Sequence[Control],
    config: EditConfig,
) -> str:
    """Names the inversion by all that it depends on."""
    return inversion_key(
        latents,
        prompt_embeds,
        *(tensor for _, tensor in sorted(tuned.tensors.items())),
        *(control.pictures for control in controls),
        controls=[[digest_of(c.network), c.strength, c.start, c.end] for c in controls],
        base=base,
        unet=digest_of(opened.unet),
        inflation=[unet.attention, unet.group_norm, unet.temporal],
        steps=config.inversion_steps,
        strength=config.strength,
        dtype=str(unet.unet.dtype),
        scheduler={name: value for name, value in opened.scheduler.config.items() if not name.startswith("_")},
    )


def _memory(opened: Checkpoint, unet: InflatedUNet, latents: Tensor, config: EditConfig) -> MemoryPlan:
    batch = 2 if config.guidance_scale > 1 else 1  # with the negative prompt
    sampling = inference_memory(unet, (batch, *latents.shape[1:]))
    return MemoryPlan.on(latents.device, max(sampling, decoding_memory(opened.vae, *latents.shape[-2:])))


def _differences(facts: dict, checkpoint: str, base: str, laid_over: dict[str, list[dict]]) -> list[str]:
    """A sentence for each thing that is otherwise than it was while the weights were tuned."""
    notes = []
    if (tuned_on := str(facts.get("base_fingerprint"))) != base:
        notes.append(
            f"The weights were tuned on {facts.get('checkpoint') or 'a checkpoint'} (fingerprint {tuned_on[:12]}), and "
            f"{checkpoint} is another one ({base[:12]}); edits may follow the clip less closely."
        )
    for kind, name in (("loras", "file"), ("controls", "network")):
        now = [used[name] for used in laid_over[kind]]
        if absent := [used[name] for used in facts.get(kind, []) if used[name] not in now]:
            option = {"loras": "--lora", "controls": "--control"}[kind]
            notes.append(
                f"The weights were tuned with {', '.join(absent)} in place, and this edit is without; give {option} to "
                "edit with it, too."
            )
    return notes


def _spare(folder: Path, *sources: Path) -> None:
    """Refuses a folder in which a result would take the name of what it is made from."""
    for name in (INVERSION, f"{RECONSTRUCTION}.mp4", SHEET, MANIFEST):
        if any((folder / name).absolute() == source.absolute() for source in sources):
            raise TavError(f"{folder / name} would be overwritten by a result of that name; choose another folder.")


def _selection(clip: Path, facts: dict, changed: dict) -> Selection:
    """The frames that the weights were tuned on, but for what is `changed`."""
    names = ("frames", "size", "start", "stride", "fit")
    return Selection(clip, **{name: facts[name] for name in names if name in facts} | changed)
