"""`tav tune`: a checkpoint tuned on one clip and its prompt."""

from pathlib import Path
from typing import Annotated

import typer

from ..inflation import Inflation
from ..jobs.base import choose_device
from ..jobs.control_choice import choices
from ..jobs.selection import Selection
from ..jobs.tuning import prepare_tuning
from ..tune import TuneConfig
from .app import app
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
from .screen import run_tuning, say


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
    say(f"Reading {frames} frames of {clip.name} and opening {checkpoint.name}.")
    job = prepare_tuning(
        Selection(clip, frames, size_of(size), start, stride, value_of(fit)),
        prompt,
        checkpoint,
        output,
        config=config,
        inflation=Inflation(value_of(attention), value_of(group_norm)),
        posterior=posterior,
        device=choose_device(device),
        replace_output=force,
        controls=choices(control or (), control_pictures or ()),
        **laid_over(lora, prediction_type),
    )
    run_tuning(job)
