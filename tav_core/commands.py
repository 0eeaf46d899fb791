"""The commands of `tav`: options in, calls of the jobs, lines out. Results go to stdout, the rest to stderr."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm
from typer.core import TyperGroup

from .config_file import read_config
from .control_choice import choices
from .edit_config import EditConfig
from .editing_job import prepare_edit
from .failures import sentence_for
from .files import ensure_writable
from .jobs import Selection, choose_device, versions
from .options import (
    SWITCH,
    Attention,
    CheckpointPath,
    ClipPath,
    Controls,
    Device,
    Fit,
    FitHelp,
    FramesHelp,
    GroupNorm,
    Loras,
    OptionalCheckpoint,
    Pictures,
    Precision,
    PredictionType,
    SizeHelp,
    StartHelp,
    StrideHelp,
    Switch,
    laid_over,
    size_of,
    value_of,
)
from .screen import progress_bars, readable, tell, tell_memory, warn
from .tune import TuneConfig
from .tuned import TunedWeights
from .tuning_job import prepare_tuning


class Commands(TyperGroup):
    """Ends each command that fails or is stopped with a sentence; a bug keeps its traceback."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            tell("Stopped.")
            raise typer.Exit(130) from None
        except Exception as error:
            sentence = sentence_for(error)
            if sentence is None:
                raise
            tell(f"Error: {sentence}")
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_versions(asked: bool) -> None:
    if asked:
        typer.echo(", ".join(f"{name} {number}" for name, number in versions().items()))
        raise typer.Exit()


@app.callback()
def tav(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_versions, help="Say the versions, and leave.")
    ] = False,
) -> None:
    """Tune-A-Video: one clip and one sentence in, edited videos with the same motion out.

    First `tav tune` a Stable Diffusion checkpoint on a clip and the sentence that describes it, then `tav edit` the
    clip with other sentences.
    """


@app.command(no_args_is_help=True)
def tune(
    clip: ClipPath,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The sentence that describes the clip.")],
    checkpoint: CheckpointPath,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where the tuned weights go: a .safetensors file.")
    ],
    frames: Annotated[int, typer.Option(help=FramesHelp)] = 24,
    size: Annotated[str, typer.Option(help=SizeHelp)] = "512",
    start: Annotated[int, typer.Option(help=StartHelp)] = 0,
    stride: Annotated[int, typer.Option(help=StrideHelp)] = 0,
    fit: Annotated[Fit, typer.Option(help=FitHelp)] = "crop",
    steps: Annotated[int, typer.Option(help="Tuning steps, 1 or more.")] = 500,
    learning_rate: Annotated[float, typer.Option(help="The learning rate of AdamW, between 0 and 1.")] = 3e-5,
    seed: Annotated[int, typer.Option(help="The seed of the noise and timesteps drawn while tuning.")] = 0,
    precision: Annotated[
        Precision, typer.Option(help="Mixed precision; auto: bf16 or fp16 on a GPU, no on the CPU.")
    ] = "auto",
    gradient_checkpointing: Annotated[
        Switch, typer.Option(help="Less memory, a third slower; auto: where it would not fit without.")
    ] = "auto",
    attention: Annotated[
        Attention, typer.Option(help="The frames that a frame looks at; the paper's: first and previous.")
    ] = "sparse-causal",
    group_norm: Annotated[
        GroupNorm, typer.Option(help="Normalise over the whole video, as the original, or per frame.")
    ] = "video",
    posterior: Annotated[
        bool, typer.Option("--posterior", help="Sample the VAE anew each step, as the original, not take its mean.")
    ] = False,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between two savings of the run.")] = 50,
    lora: Loras = None,
    control: Controls = None,
    control_pictures: Pictures = None,
    prediction_type: PredictionType = "auto",
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace whatever FILE holds, and tune anew.")] = False,
) -> None:
    """Tune a checkpoint on one clip and the sentence that describes it.

    Stopped or broken off, the same command goes on where it was: a hidden file beside FILE keeps the run.

    \b
    Example:
      tav tune skiing.mp4 -p "a man is skiing" -c sd15.safetensors -o skiing.safetensors
    """
    config = TuneConfig(
        num_steps=steps,
        learning_rate=learning_rate,
        seed=seed,
        mixed_precision=value_of(precision),
        gradient_checkpointing=SWITCH[value_of(gradient_checkpointing)],
        checkpoint_every=checkpoint_every,
    )
    _tune(
        Selection(clip, frames, size_of(size), start, stride, value_of(fit)),
        prompt,
        checkpoint,
        output,
        config=config,
        attention=value_of(attention),
        group_norm=value_of(group_norm),
        posterior=posterior,
        device=choose_device(device),
        replace_output=force,
        controls=choices(control or (), control_pictures or ()),
        **laid_over(lora, prediction_type),
    )


@app.command(no_args_is_help=True)
def edit(
    clip: ClipPath,
    weights: Annotated[
        Path,
        typer.Option(
            "--weights",
            "-w",
            metavar="FILE",
            help="What `tav tune` wrote, or the folder that the original Tune-A-Video's training wrote.",
        ),
    ],
    prompt: Annotated[
        list[str], typer.Option("--prompt", "-p", help="A sentence to edit by; again for each further video.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder for all results.")],
    checkpoint: OptionalCheckpoint = None,
    frames: Annotated[int | None, typer.Option(help=FramesHelp, show_default="as tuned")] = None,
    size: Annotated[str | None, typer.Option(help=SizeHelp, show_default="as tuned")] = None,
    start: Annotated[int | None, typer.Option(help=StartHelp, show_default="as tuned")] = None,
    stride: Annotated[int | None, typer.Option(help=StrideHelp, show_default="as tuned")] = None,
    fit: Annotated[Fit | None, typer.Option(help=FitHelp, show_default="as tuned")] = None,
    steps: Annotated[int, typer.Option(help="DDIM steps of each video, 1 to 999.")] = 50,
    inversion_steps: Annotated[int, typer.Option(help="DDIM steps of the inversion, 1 to 999.")] = 50,
    inversion_prompt: Annotated[str, typer.Option(help="The sentence to invert under.")] = "",
    guidance: Annotated[
        float, typer.Option(help="Classifier-free guidance; 1 or less is none, and twice as fast.")
    ] = 12.5,
    negative: Annotated[str, typer.Option(help="The sentence to guide away from.")] = "",
    eta: Annotated[float, typer.Option(help="Noise added while sampling, 0 (none) to 1 (as much as DDPM).")] = 0.0,
    seed: Annotated[int, typer.Option(help="The seed of that noise.")] = 0,
    strength: Annotated[float, typer.Option(help="How much of the tuned weights; 0 is the checkpoint as it is.")] = 1.0,
    precision: Annotated[
        Precision, typer.Option(help="The precision of the network; auto: fp16 on a GPU, no (float32) on the CPU.")
    ] = "auto",
    lora: Loras = None,
    control: Controls = None,
    control_pictures: Pictures = None,
    prediction_type: PredictionType = "auto",
    device: Device = "auto",
) -> None:
    """Edit a clip by other sentences, with weights tuned on it.

    The clip is inverted once; DIR keeps that, and it is used again while clip, weights and settings are the same. Then
    each sentence gives an mp4. reconstruction.mp4 is the clip sampled back from its noise: how far to trust the
    inversion. sheet.png shows all side by side, and manifest.json says how they were made.

    \b
    Example:
      tav edit skiing.mp4 -w skiing.safetensors -c sd15.safetensors -o skiing \\
        -p "spider man is skiing on the beach" -p "a panda is skiing"
    """
    config = EditConfig(
        num_steps=steps,
        inversion_steps=inversion_steps,
        inversion_prompt=inversion_prompt,
        guidance_scale=guidance,
        negative_prompt=negative,
        eta=eta,
        seed=seed,
        strength=strength,
        precision=value_of(precision),
    )
    asked = {"frames": frames, "size": size and size_of(size), "start": start, "stride": stride, "fit": value_of(fit)}
    selection = {name: value for name, value in asked.items() if value is not None}
    over = {"controls": choices(control or (), control_pictures or ()), **laid_over(lora, prediction_type)}
    _edit(clip, weights, checkpoint, prompt, output, config=config, device=choose_device(device), **over, **selection)


@app.command(no_args_is_help=True)
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="A config of the original implementation.")],
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", "-c", metavar="PATH", help="In place of pretrained_model_path.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The folder for all results, not output_dir.")
    ] = None,
    lora: Loras = None,
    control: Controls = None,
    control_pictures: Pictures = None,
    prediction_type: PredictionType = "auto",
    device: Device = "auto",
    force: Annotated[
        bool, typer.Option("--force", help="Replace tuned.safetensors if it is of other settings.")
    ] = False,
) -> None:
    """Tune, then edit, as a YAML config of the original implementation says.

    Into the folder go tuned.safetensors, the config, and all that `tav edit` writes. As in the original, pictures are
    stretched to the size and the VAE's posterior is sampled. Clip and checkpoint are looked for from the working
    directory, then from the config's folder and the one above it.

    \b
    Example:
      tav run configs/man-skiing.yaml -c sd14.safetensors
    """
    said = read_config(config, checkpoint=checkpoint, output=output)
    if said.ignored:
        tell(f"Ignored, for it has no meaning here: {', '.join(said.ignored)}.")
    chosen, settings = choose_device(device), said.tune
    if chosen.type == "cpu" and settings.mixed_precision != "no":
        tell(f"On the CPU, mixed_precision {settings.mixed_precision} is not faster, and left out.")
        settings = replace(settings, mixed_precision="no")
    over = {"controls": choices(control or (), control_pictures or ()), **laid_over(lora, prediction_type)}
    ensure_writable(said.output)
    said.edited.read()  # tuning must not end at validation frames that cannot be had
    weights = said.output / "tuned.safetensors"
    _tune(
        said.tuned,
        said.prompt,
        said.checkpoint,
        weights,
        config=settings,
        posterior=True,
        device=chosen,
        replace_output=force,
        **over,
    )
    copy = said.output / "config.yaml"
    if not copy.exists() or not copy.samefile(config):
        shutil.copyfile(config, copy)
    frames = {name: getattr(said.edited, name) for name in ("frames", "size", "start", "stride", "fit")}
    _edit(
        said.edited.clip,
        weights,
        said.checkpoint,
        said.prompts,
        said.output,
        config=said.edit,
        device=chosen,
        **over,
        **frames,
    )


@app.command(no_args_is_help=True)
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Tuned weights, as `tav tune` writes them.")],
    as_json: Annotated[bool, typer.Option("--json", help="All facts as JSON, for machines.")] = False,
) -> None:
    """Say what a weights file was tuned on, and how.

    \b
    Example:
      tav info skiing.safetensors
    """
    weights = TunedWeights.load(file)
    facts = weights.facts | {"tensors": len(weights.tensors), "bytes": file.stat().st_size}
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(file)
    config = facts.pop("config", {})
    foremost = {name: facts[name] for name in ("prompt", "clip", "frames", "size", "fps") if name in facts}
    for name, value in (foremost | facts | config).items():
        typer.echo(f"  {name.replace('_', ' '):<22}  {readable(name, value)}")


def _tune(selection: Selection, prompt: str, checkpoint: Path, output: Path, *, config: TuneConfig, **options) -> None:
    tell(f"Reading {selection.frames} frames of {selection.clip.name} and opening {checkpoint.name}.")
    job = prepare_tuning(selection, prompt, checkpoint, output, config=config, **options)
    warn(job.notes)
    if job.is_done:
        tell("This very run is done already; nothing is left to do.")
        typer.echo(output)
        return
    tell_memory(job.memory, "Tuning")
    if job.memory.checkpointing and config.gradient_checkpointing == "auto":
        why = "without it a step would not fit" if job.memory.available else "nobody can tell whether a step would fit"
        tell(f"Gradient checkpointing is switched on, for {why}.")
    if job.first_step:
        tell(f"Going on from step {job.first_step} of {config.num_steps}.")
    try:
        with tqdm(total=config.num_steps, initial=job.first_step, desc="Tuning", unit="step") as bar:

            def on_step(step: int, total: int, *, loss: float, **_) -> None:
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                bar.update()

            report = job.run(on_step)
    except KeyboardInterrupt:
        tell(f"Stopped after step {job.first_step} of {config.num_steps}; the same command goes on from there.")
        raise typer.Exit(130) from None
    tell(f"Tuned {report.steps} steps, final loss {report.losses[-1]:.4f}.")
    typer.echo(output)


def _edit(clip: Path, weights: Path, checkpoint: Path | None, prompts: list[str], folder: Path, **options) -> None:
    tell(f"Reading {clip.name}, opening {(checkpoint or weights).name} with {weights.name}.")
    job = prepare_edit(clip, weights, checkpoint, prompts, folder, **options)
    warn(job.notes)
    tell_memory(job.memory, "Sampling")
    if job.kept:
        tell(f"The inversion in {folder} is of the same clip, weights and settings, and is used again.")
    report = job.run(progress_bars())
    if report.psnr is not None:
        tell(f"The inversion reconstructs the clip at {report.psnr:.1f} dB PSNR.")
    for path in (*(made.path for made in report.edits), report.sheet, report.manifest):
        typer.echo(path)
