"""A tuning run from files to a file: clip, sentence and checkpoint in, tuned weights out. It resumes by itself."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from .control import Control, residuals
from .control_choice import ControlChoice
from .errors import TavError
from .files import ensure_writable, read_facts
from .inflate import InflatedUNet, inflate
from .inversion import digest_of
from .jobs import MemoryPlan, Selection, ensure_prompt, ensure_room, open_base, unseen_words
from .lora import Lora
from .memory import tuning_memory
from .resume import FORMAT, FREE, run_fingerprint
from .tune import TuneConfig, TuneReport, resolve_checkpointing, resolve_precision, tune
from .tuned import TunedWeights
from .version import __version__

SUFFIX = ".safetensors"


@dataclass(eq=False)
class TuningRun:
    """A run that is ready to start, made by `prepare_tuning`.

    first_step: the steps that an earlier, interrupted run left done; resume_file: where they are kept.
    is_done: whether `output` holds the result of this very run already.
    memory: what it is going to take; None where it is done. notes: sentences that the user should read.
    """

    unet: InflatedUNet
    latents: Tensor | tuple[Tensor, Tensor]
    prompt_embeds: Tensor
    scheduler: DDPMScheduler
    config: TuneConfig
    output: Path
    resume_file: Path
    facts: dict
    notes: list[str]
    is_done: bool
    controls: tuple[Control, ...] = ()
    memory: MemoryPlan | None = None

    @property
    def first_step(self) -> int:
        return _steps_in(self.resume_file)

    def run(self, on_step: Callable | None = None) -> TuneReport:
        """Tunes, writes the weights, and only then removes the resume file. `on_step` as `tune` calls it."""
        report = tune(
            self.unet,
            self.latents,
            self.prompt_embeds,
            self.scheduler,
            replace(self.config, gradient_checkpointing=self.memory.checkpointing),
            control=partial(residuals, self.controls, prompt_embeds=self.prompt_embeds) if self.controls else None,
            checkpoint=self.resume_file,
            run=self.facts["run"],
            on_step=on_step,
        )
        outcome = {"steps": report.steps, "final_loss": report.losses[-1]}
        TunedWeights.from_unet(self.unet, **self.facts, **outcome).save(self.output)
        self.resume_file.unlink(missing_ok=True)
        return report


def prepare_tuning(
    selection: Selection,
    prompt: str,
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    *,
    config: TuneConfig,
    attention: str = "sparse-causal",
    group_norm: str = "video",
    posterior: bool = False,
    loras: Sequence[Lora] = (),
    controls: Sequence[ControlChoice] = (),
    prediction_type: str | None = None,
    device: torch.device,
    replace_output: bool = False,
) -> TuningRun:
    """Checks everything, reads the clip, opens the checkpoint and encodes; VAE and text encoder are let go again.

    loras: become a part of the base that is tuned, and not of the tuned weights.
    controls: hold the network to pictures while it is tuned.
    prediction_type: as `open_base` takes it.
    posterior: samples the VAE's posterior anew at each step, as the original does, in place of its mean.
    replace_output: lets the run replace a file that holds something else.
    Raises TavError for what is wrong with the inputs, and where `output` holds anything but this run's result.
    """
    output = Path(output)
    ensure_prompt(prompt, "The prompt of the clip")
    if output.suffix != SUFFIX:
        raise TavError(f"Tuned weights are written to a {SUFFIX} file, got {output.name!r}; give it that suffix.")
    settings = {"prompt": prompt, **selection.facts(), "posterior": posterior}
    if loras:
        settings["loras"] = [lora.facts() for lora in loras]
    if controls:
        settings["controls"] = [control.facts() for control in controls]
    inflation = {"attention": attention, "group_norm": group_norm}
    existing = None if replace_output else _existing(output, settings | inflation, config)
    ensure_writable(output.parent)
    clip = selection.read()
    opened, base = open_base(checkpoint, loras=loras, prediction_type=prediction_type, device=device)
    notes, family = unseen_words(opened, [prompt]), opened.family
    unet = inflate(opened.unet, **inflation)
    precision = resolve_precision(config, unet, device) or torch.float32
    controls = tuple(control.open(selection, unet.unet, device, precision) for control in controls)
    prompt_embeds = opened.encode_prompt(prompt)
    latents = opened.encode_video(clip.frames, posterior=posterior)
    scheduler = DDPMScheduler.from_config(opened.scheduler.config)
    del opened  # tuning needs neither VAE nor text encoder, and their memory is best free before it is counted

    fingerprint = run_fingerprint(unet, latents, prompt_embeds, scheduler, config)
    if loras or controls:
        fingerprint = _fingerprint_with(fingerprint, unet if loras else None, controls)
    if existing and existing.facts.get("run") != fingerprint:
        raise _occupied(output, "tuned weights of another run (another clip, checkpoint or device)")
    facts = {
        "family": family,
        "checkpoint": Path(checkpoint).name,
        "base_fingerprint": base,
        "prediction_type": scheduler.config.prediction_type,
        **settings,
        "fps": clip.fps,
        "config": asdict(config),
        "run": fingerprint,
        "version": __version__,
    }
    prefix = f".{output.stem[:100]}."
    resume_file = output.with_name(f"{prefix}{fingerprint[:12]}.resume{SUFFIX}")
    run = TuningRun(
        unet,
        latents,
        prompt_embeds,
        scheduler,
        config,
        output,
        resume_file,
        facts,
        notes,
        is_done=bool(existing),
        controls=controls,
    )
    if not run.is_done:
        if run.first_step > config.num_steps:
            raise TavError(
                f"This run was interrupted after step {run.first_step}, which is more than the {config.num_steps} "
                f"asked for; ask for at least {run.first_step} steps, or delete {resume_file}."
            )
        # two checkpoints of three numbers each while one takes the other's place, and the result
        ensure_room(output.parent, 28 * sum(p.numel() for p in unet.trainable_parameters().values()))
        notes += _of_other_runs(resume_file, prefix)
        run.memory = _plan(unet, latents, config)
    return run


def _fingerprint_with(fingerprint: str, unet: InflatedUNet | None, controls: Sequence[Control]) -> str:
    """That of a run with LoRAs, which may change more than what `run_fingerprint` looks at, or with controls."""
    told = [[digest_of(control.network), control.strength, control.start, control.end] for control in controls]
    digest = hashlib.sha256(json.dumps([fingerprint, unet and digest_of(unet), told]).encode())
    for control in controls:
        digest.update(control.pictures.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _existing(output: Path, settings: dict, config: TuneConfig) -> TunedWeights | None:
    """What lies at `output`, if it may be this run's result; refuses what cannot be."""
    if not output.exists():
        return None
    try:
        facts = (weights := TunedWeights.load(output)).facts
    except TavError:
        raise _occupied(output, "something else") from None
    asked = settings | {f"config.{name}": value for name, value in _decisive(asdict(config)).items()}
    there = facts | {f"config.{name}": value for name, value in facts.get("config", {}).items()}
    differs = [name for name, value in asked.items() if there.get(name) != value]
    if differs:
        name = differs[0]
        raise _occupied(
            output, f"weights of another run ({name.removeprefix('config.')} {there.get(name)!r}, not {asked[name]!r})"
        )
    if facts.get("steps") != config.num_steps:
        raise _occupied(output, f"this run's weights after {facts.get('steps')} steps, not {config.num_steps}")
    return weights


def _decisive(config: dict) -> dict:
    return {name: value for name, value in config.items() if name not in FREE}


def _occupied(output: Path, content: str) -> TavError:
    return TavError(f"{output} exists and holds {content}; choose another name, or force its replacement (--force).")


def _steps_in(resume_file: Path) -> int:
    if not resume_file.exists():
        return 0
    return read_facts(resume_file, FORMAT)["step"]


def _of_other_runs(resume_file: Path, prefix: str) -> list[str]:
    """Work is kept under a run's fingerprint; where another run's lies beside it, a setting may be a mistake."""
    of_this_output = re.compile(re.escape(prefix) + r"[0-9a-f]{12}\.resume\.safetensors")
    others = [p for p in sorted(resume_file.parent.iterdir()) if of_this_output.fullmatch(p.name) and p != resume_file]
    return [
        f"{other.name} keeps an interrupted run for the same output, but of another clip, checkpoint, sentence, device "
        "or settings; this run starts anew and leaves it. Delete it if it is not needed."
        for other in others
    ]


def _plan(unet: InflatedUNet, latents: Tensor | tuple[Tensor, Tensor], config: TuneConfig) -> MemoryPlan:
    """The estimate by which `tune`, too, decides what "auto" means."""
    mean = latents if torch.is_tensor(latents) else latents[0]
    device = mean.device
    checkpointing = resolve_checkpointing(config, unet, mean.shape, device)
    half = resolve_precision(config, unet, device) is not None
    needed = tuning_memory(unet, mean.shape, checkpointing=checkpointing, half=half)
    return MemoryPlan.on(device, needed, checkpointing=checkpointing)
