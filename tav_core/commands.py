"""The commands of `tav`: options in, calls of the jobs, lines out. Results go to stdout, the rest to stderr."""

import json
import shutil
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm
from typer.core import TyperGroup

from .attention import PATTERNS
from .config_file import read_config
from .edit_config import EditConfig
from .editing_job import prepare_edit
from .errors import TavError
from .failures import sentence_for
from .files import ensure_writable
from .inflate import GROUP_NORMS
from .jobs import Selection, choose_device, versions
from .screen import progress_bars, readable, tell, tell_memory, warn
from .tune import PRECISIONS, TuneConfig
from .tuned import TunedWeights
from .tuning_job import prepare_tuning
from .video import FITS

SWITCH = {"auto": "auto", "on": True, "off": False}


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


def _choice(name: str, values) -> type[Enum]:
    return Enum(name, [(value, value) for value in values], type=str)


Fit = _choice("Fit", FITS)
Attention = _choice("Attention", PATTERNS)
GroupNorm = _choice("GroupNorm", GROUP_NORMS)
Precision = _choice("Precision", ("auto", *PRECISIONS))
Switch = _choice("Switch", SWITCH)

ClipPath = Annotated[
    Path, typer.Argument(metavar="CLIP", help="A video (mp4, mov, mkv, webm), a GIF, or a folder of images.")
]
CheckpointPath = Annotated[
    Path,
    typer.Option(
        "--checkpoint", "-c", metavar="PATH", help="Stable Diffusion 1.x or 2.x: a .safetensors file, or a folder."
    ),
]
Device = Annotated[str, typer.Option(help="auto (the GPU if there is one), cpu, cuda, cuda:1, ...")]
FramesHelp = "Frames to take, 1 or more; memory grows with them."
SizeHelp = "Pixels, multiples of 8: one side (512) or WxH (512x320); memory grows with them."
StartHelp = "The first frame to take, counted from 0."
StrideHelp = "Take every N-th frame; 0 spreads them evenly from the first to the last."
FitHelp = "Into another aspect: crop the edges, pad with black, or stretch."


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
        mixed_precision=_value(precision),
        gradient_checkpointing=SWITCH[_value(gradient_checkpointing)],
        checkpoint_every=checkpoint_every,
    )
    _tune(
        Selection(clip, frames, _size(size), start, stride, _value(fit)),
        prompt,
        checkpoint,
        output,
        config=config,
        attention=_value(attention),
        group_norm=_value(group_norm),
        posterior=posterior,
        device=choose_device(device),
        replace_output=force,
    )


@app.command(no_args_is_help=True)
def edit(
    clip: ClipPath,
    weights: Annotated[Path, typer.Option("--weights", "-w", metavar="FILE", help="What `tav tune` wrote.")],
    checkpoint: CheckpointPath,
    prompt: Annotated[
        list[str], typer.Option("--prompt", "-p", help="A sentence to edit by; again for each further video.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder for all results.")],
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
        precision=_value(precision),
    )
    asked = {"frames": frames, "size": size and _size(size), "start": start, "stride": stride, "fit": _value(fit)}
    selection = {name: value for name, value in asked.items() if value is not None}
    _edit(clip, weights, checkpoint, prompt, output, config=config, device=choose_device(device), **selection)


@app.command(no_args_is_help=True)
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="A config of the original implementation.")],
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", "-c", metavar="PATH", help="In place of pretrained_model_path.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The folder for all results, not output_dir.")
    ] = None,
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


def _edit(clip: Path, weights: Path, checkpoint: Path, prompts: list[str], folder: Path, **options) -> None:
    tell(f"Reading {clip.name}, opening {checkpoint.name} with {weights.name}.")
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


def _value(chosen: Enum | str | None) -> str | None:
    """What an option of choices says; a default comes as the plain word."""
    return chosen.value if isinstance(chosen, Enum) else chosen


def _size(text: str) -> int | tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise TavError(f"The size is {text!r}; give one side, such as 512, or WIDTHxHEIGHT, such as 512x320.")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
