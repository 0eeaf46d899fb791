"""A tuning run: a clip, a prompt and a checkpoint in, a file of tuned weights out. Interrupted runs resume."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from ..checkpoints.lora import Lora
from ..control import Control, residuals
from ..errors import TavError
from ..files import ensure_writable, locked, remove_leftovers
from ..fingerprints import controlled_run, run_fingerprint
from ..inflate import InflatedUNet, inflate
from ..inflation import Inflation
from ..memory import tuning_memory
from ..precision import tuning_precision
from ..prompt import Prompt
from ..resume import damage_in, steps_kept_in
from ..tune import LATER, TuneConfig, TuneReport, resolve_checkpointing, tune
from ..tuned import TunedWeights
from ..version import __version__
from ..windows import Windows
from .base import Base, MemoryPlan, ensure_prompt, ensure_room, open_base, unseen_words
from .control_choice import ControlChoice
from .selection import Selection

SUFFIX = ".safetensors"


@dataclass(eq=False)
class TuningRun:
    """A tuning run that is ready to start, made by `prepare_tuning`.

    resume_file: saves the run's state, to resume from. is_done: whether `output` already holds this run's result.
    replaces_output: whether it holds something else that is to be overwritten.
    memory: None if the run is done. notes: warnings for the user.
    """

    unet: InflatedUNet
    latents: Tensor | tuple[Tensor, Tensor]
    prompt_embeds: Prompt
    scheduler: DDPMScheduler
    config: TuneConfig
    output: Path
    resume_file: Path
    facts: dict
    notes: list[str]
    is_done: bool
    replaces_output: bool = False
    controls: tuple[Control, ...] = ()
    memory: MemoryPlan | None = None

    @property
    def first_step(self) -> int:
        """How many steps an interrupted run has done."""
        return steps_kept_in(self.resume_file)

    def run(self, on_step: Callable | None = None) -> TuneReport:
        """Tunes, writes the weights, then removes the resume file. on_step: as in `tune`.

        Raises TavError if another process is at the same output, or has written it since this run was prepared.
        """
        with locked(self.output, f"The output {self.output}"):
            if self.output.exists() and not self.replaces_output:
                raise _occupied(self.output, "weights that another process has written meanwhile")
            remove_leftovers(self.output)
            remove_leftovers(self.resume_file)
            return self._run(on_step)

    def _run(self, on_step: Callable | None) -> TuneReport:
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
    checkpoint: str | os.PathLike | Base,
    output: str | os.PathLike,
    *,
    config: TuneConfig,
    inflation: Inflation = Inflation(),
    posterior: bool = False,
    loras: Sequence[Lora] = (),
    controls: Sequence[ControlChoice] = (),
    prediction_type: str | None = None,
    device: torch.device,
    replace_output: bool = False,
    on_step: Callable | None = None,
) -> TuningRun:
    """Checks the inputs, reads the clip, opens the checkpoint, encodes, and frees VAE and text encoder.

    checkpoint, prediction_type: as in `open_base`.
    loras: fused into the base that is tuned; they do not become part of the tuned weights.
    controls: guide the network by their images while it is tuned.
    posterior: sample the VAE posterior at every step, as the original does, instead of using its mean.
    replace_output: overwrite `output` even if it holds something else.
    on_step: called as (step, total, part="encoding") after each frame that is encoded.
    Raises TavError for invalid inputs, and if `output` holds anything but this run's result.
    """
    output = Path(output)
    ensure_prompt(prompt, "The clip's prompt")
    if output.suffix != SUFFIX:
        raise TavError(f"Tuned weights are written to a {SUFFIX} file, got {output.name!r}; give it that suffix.")
    asked = {"prompt": prompt, **selection.as_metadata(), "posterior": posterior}
    if loras := checkpoint.loras if isinstance(checkpoint, Base) else loras:
        asked["loras"] = [lora.as_metadata() for lora in loras]
    if controls:
        asked["controls"] = [control.as_metadata() for control in controls]
    existing = None if replace_output else _existing(output, asked | inflation.as_metadata(), config)
    ensure_writable(output.parent)
    clip = selection.read()
    own = () if isinstance(checkpoint, Base) else loras
    base = open_base(checkpoint, loras=own, prediction_type=prediction_type, device=device)
    opened = base.checkpoint
    notes, family = [*clip.notes, *unseen_words(opened, [prompt])], opened.family
    unet = inflate(opened.unet, inflation)
    precision = tuning_precision(config.mixed_precision, unet.dtype, device)
    controls = tuple(control.open(selection, unet.unet, device, precision, notes) for control in controls)
    Windows(config.window).check(len(clip.frames))
    prompt_embeds = opened.encode_prompt(prompt)
    latents = opened.encode_video(clip.frames, posterior, on_step)
    scheduler = DDPMScheduler.from_config(opened.scheduler.config)
    facts = {
        "family": family,
        "checkpoint": base.path.name,
        "base_fingerprint": base.fingerprint,
        "prediction_type": scheduler.config.prediction_type,
        **asked,
        "by_time": clip.by_time,
        "fps": clip.fps,
        "config": asdict(config),
        "version": __version__,
    }
    del opened, base  # tuning needs neither VAE nor text encoder; free their memory before the estimate

    run = run_fingerprint(unet, latents, prompt_embeds, scheduler, config)
    if controls:
        run = controlled_run(run, controls)
    if existing and existing.facts.run != run:
        raise _occupied(output, "tuned weights of another run (another clip, checkpoint or device)")
    prefix = f".{_start_of(output.stem)}."
    job = TuningRun(
        unet,
        latents,
        prompt_embeds,
        scheduler,
        config,
        output,
        output.with_name(f"{prefix}{run[:12]}.resume{SUFFIX}"),
        facts | {"run": run},
        notes,
        is_done=bool(existing),
        replaces_output=output.exists(),
        controls=controls,
    )
    if not job.is_done:
        if damage := damage_in(job.resume_file):
            notes.append(f"{damage} The run starts from the beginning.")
            job.resume_file.unlink()
        if job.first_step > config.num_steps:
            raise TavError(
                f"This run was interrupted after step {job.first_step}, but num_steps is {config.num_steps}; "
                f"ask for at least {job.first_step} steps, or delete {job.resume_file}."
            )
        # the result, and two resume files of three numbers per parameter while one replaces the other
        ensure_room(output.parent, 28 * sum(p.numel() for p in unet.trainable_parameters().values()))
        notes += _notes_on_other_runs(job.resume_file, prefix)
        job.memory = _plan(unet, latents, config)
    return job


def _start_of(name: str) -> str:
    """The start of a name, so short that a file system takes what is added to it: 100 characters and 200 bytes."""
    name = name[:100]
    while len(os.fsencode(name)) > 200:
        name = name[:-1]
    return name


def _existing(output: Path, asked: dict, config: TuneConfig) -> TunedWeights | None:
    """The weights at `output`, if any, that could be this run's result; TavError if they cannot be."""
    if not output.exists():
        return None
    try:
        weights = TunedWeights.load(output)
    except TavError:
        raise _occupied(output, "something else") from None
    asked = asked | config.decisive() | {name: getattr(config, name) for name in LATER}
    found = LATER | weights.facts.as_metadata() | (weights.facts.config or {})
    if differing := [name for name, value in asked.items() if found.get(name) != value]:
        name = differing[0]
        raise _occupied(output, f"weights of another run ({name} {found.get(name)!r}, not {asked[name]!r})")
    if weights.facts.steps != config.num_steps:
        raise _occupied(output, f"this run's weights after {weights.facts.steps} steps, not {config.num_steps}")
    return weights


def _occupied(output: Path, content: str) -> TavError:
    return TavError(f"{output} already holds {content}; choose another name, or overwrite it with --force.")


def _notes_on_other_runs(resume_file: Path, prefix: str) -> list[str]:
    """A resume file is named after its run's fingerprint; one of another run may mean that a setting was mistyped."""
    of_this_output = re.compile(re.escape(prefix) + r"[0-9a-f]{12}\.resume\.safetensors")
    others = [p for p in sorted(resume_file.parent.iterdir()) if of_this_output.fullmatch(p.name) and p != resume_file]
    return [
        f"{other.name} belongs to an interrupted run for the same output with another clip, checkpoint, prompt, device "
        "or settings; this run starts from the beginning and keeps that file. Delete it if you do not need it."
        for other in others
    ]


def _plan(unet: InflatedUNet, latents: Tensor | tuple[Tensor, Tensor], config: TuneConfig) -> MemoryPlan:
    """Uses the estimate by which `tune` resolves "auto" gradient checkpointing."""
    mean = latents if torch.is_tensor(latents) else latents[0]
    shape = config.step_shape(mean.shape)
    checkpointing = resolve_checkpointing(config, unet, shape, mean.device)
    half = tuning_precision(config.mixed_precision, unet.dtype, mean.device) != torch.float32
    needed = tuning_memory(unet, shape, checkpointing=checkpointing, half=half)
    return MemoryPlan.on(mean.device, needed, checkpointing=checkpointing)
