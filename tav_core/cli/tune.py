"""`tav tune`: tunes a checkpoint on one clip and its prompt."""

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
    ByTime,
    ByTimeHelp,
    CheckpointPath,
    ClipPath,
    ControlImages,
    Controls,
    Device,
    Fit,
    FitHelp,
    FramesHelp,
    GroupNorm,
    Loras,
    Merge,
    Precision,
    PredictionType,
    SizeHelp,
    StartHelp,
    StrideHelp,
    Switch,
    base_options,
    size_of,
    value_of,
)
from .screen import progress_bars, run_tuning, say


@app.command(no_args_is_help=True)
def tune(
    clip: ClipPath,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="A prompt that describes the clip.")],
    checkpoint: CheckpointPath,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The tuned weights to write, a .safetensors file.")
    ],
    frames: Annotated[int, typer.Option(help=FramesHelp)] = 24,
    size: Annotated[str, typer.Option(help=SizeHelp)] = "512",
    start: Annotated[int, typer.Option(help=StartHelp)] = 0,
    stride: Annotated[int, typer.Option(help=StrideHelp)] = 0,
    fit: Annotated[Fit, typer.Option(help=FitHelp)] = "crop",
    by_time: Annotated[
        bool | None, typer.Option(ByTime, help=ByTimeHelp, show_default="by time if the frame rate varies")
    ] = None,
    steps: Annotated[int, typer.Option(help="Tuning steps, 1 or more.")] = 500,
    learning_rate: Annotated[float, typer.Option(help="The learning rate of AdamW, between 0 and 1.")] = 3e-5,
    seed: Annotated[int, typer.Option(help="The seed of the noise and timesteps drawn while tuning.")] = 0,
    precision: Annotated[
        Precision, typer.Option(help="Mixed precision; auto: bf16 or fp16 on a GPU, no on the CPU.")
    ] = "auto",
    gradient_checkpointing: Annotated[
        Switch, typer.Option(help="Takes less memory, but a step takes about a third longer; auto: on if needed.")
    ] = "auto",
    attention: Annotated[
        Attention, typer.Option(help="The frames each frame attends to; in the paper, the first and the previous.")
    ] = "sparse-causal",
    group_norm: Annotated[
        GroupNorm, typer.Option(help="GroupNorm over the whole video, as in the original, or per frame.")
    ] = "video",
    temporal: Annotated[
        bool, typer.Option("--temporal/--no-temporal", help="Temporal attention at the end of each block.")
    ] = True,
    position_bias: Annotated[
        bool,
        typer.Option(
            "--position-bias",
            help="A relative position bias in temporal attention, so that frames have an order (Ho et al. 2022).",
        ),
    ] = False,
    convolution: Annotated[
        bool,
        typer.Option(
            "--convolution",
            help="A convolution over time after each convolution of the residual blocks (Make-A-Video).",
        ),
    ] = False,
    merge: Annotated[
        Merge, typer.Option(help="Temporal layers are added, or merged by a learned alpha for each (Video LDM).")
    ] = "add",
    queries: Annotated[
        bool,
        typer.Option("--queries/--no-queries", help="Tune the query projections too, or only the temporal layers."),
    ] = True,
    known_frames: Annotated[
        bool,
        typer.Option(
            "--known-frames", help="Learn to make frames around known ones, for `tav interpolate` and `tav extend`."
        ),
    ] = False,
    image_share: Annotated[
        float,
        typer.Option(help="Share of the steps in which frames are separate images, 0 to below 1 (joint training)."),
    ] = 0.0,
    posterior: Annotated[
        bool,
        typer.Option(
            "--posterior",
            help="Sample the VAE posterior at every step, as the original does, instead of using its mean.",
        ),
    ] = False,
    window: Annotated[
        int,
        typer.Option(help="For long clips: frames per step, drawn at random, so that memory does not grow; 0 for all."),
    ] = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Save the run's state every N steps.")] = 50,
    lora: Loras = None,
    control: Controls = None,
    control_pictures: ControlImages = None,
    prediction_type: PredictionType = "auto",
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE and tune again.")] = False,
) -> None:
    """Tune a checkpoint on one clip and a prompt that describes it.

    If interrupted, run the same command again; it resumes from a hidden file next to FILE.

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
        window=window,
        image_share=image_share,
    )
    inflation = Inflation(
        value_of(attention),
        value_of(group_norm),
        temporal,
        position_bias,
        convolution,
        value_of(merge),
        queries,
        known_frames,
    )
    say(f"Reading {frames} frames of {clip.name} and opening {checkpoint.name}.")
    job = prepare_tuning(
        Selection(clip, frames, size_of(size), start, stride, value_of(fit), by_time),
        prompt,
        checkpoint,
        output,
        config=config,
        inflation=inflation,
        posterior=posterior,
        device=choose_device(device),
        replace_output=force,
        controls=choices(control or (), control_pictures or ()),
        on_step=progress_bars(),
        **base_options(lora, prediction_type),
    )
    run_tuning(job)
