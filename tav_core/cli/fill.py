"""`tav interpolate` and `tav extend`: add frames to a video, in between or after it."""

from pathlib import Path
from typing import Annotated

import typer

from ..jobs.base import choose_device
from ..jobs.fill_tasks import CONTINUED, DIRECTIONS, GUESSES, Between, Onwards
from ..jobs.filling import FillConfig, prepare_filling
from .app import app
from .options import (
    CheckpointPath,
    Device,
    FramesHelp,
    Loras,
    Precision,
    PredictionType,
    SizeHelp,
    StartHelp,
    StrideHelp,
    base_options,
    choice,
    size_of,
    value_of,
)
from .screen import progress_bars, run_filling, say

Video = Annotated[
    Path, typer.Argument(metavar="VIDEO", help="The clip, an edit of it, or another video of the same kind.")
]
Weights = Annotated[
    Path,
    typer.Option("--weights", "-w", metavar="FILE", help="A file from `tav tune`."),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The video to write, an .mp4 file.")]
Prompt = Annotated[
    str | None,
    typer.Option("--prompt", "-p", help="Describes the video.", show_default="as edited, else as tuned"),
]
AS_TUNED = "as tuned for the clip itself, else"
Used = Annotated[int | None, typer.Option("--use", help=FramesHelp, show_default=f"{AS_TUNED} all")]
Size = Annotated[str | None, typer.Option(help=SizeHelp, show_default="as tuned")]
Start = Annotated[int | None, typer.Option(help=StartHelp, show_default=f"{AS_TUNED} 0")]
Stride = Annotated[int | None, typer.Option(help=StrideHelp, show_default=f"{AS_TUNED} 1")]
Steps = Annotated[int, typer.Option(help="DDIM steps, 1 to 999.")]
Guidance = Annotated[float, typer.Option(help="Classifier-free guidance scale; 1 or less is off, and twice as fast.")]
Negative = Annotated[str, typer.Option(help="The negative prompt, with --guidance above 1.")]
Seed = Annotated[int, typer.Option(help="The seed of the noise.")]
Strength = Annotated[float, typer.Option(help="The strength of the tuned weights.")]
Window = Annotated[
    int | None,
    typer.Option(help="For long videos: frames that the network sees at once; 0 for all.", show_default="as tuned"),
]
NetworkPrecision = Annotated[
    Precision, typer.Option(help="The precision of the network; auto: fp16 on a GPU, no (float32) on the CPU.")
]
Trust = Annotated[
    float, typer.Option(help="The share of the steps that the guess replaces, 0 to below 1; none without a guess.")
]
Guess, Continued, Direction = choice("Guess", GUESSES), choice("Guess", CONTINUED), choice("Direction", DIRECTIONS)


@app.command(no_args_is_help=True)
def interpolate(
    video: Video,
    weights: Weights,
    checkpoint: CheckpointPath,
    output: Output,
    factor: Annotated[int, typer.Option(help="How many times as many frames a second, 2 to 8.")] = 2,
    guess: Annotated[
        Guess,
        typer.Option(
            help="What new frames look like at first: both neighbours along their optical flow, their average, or none."
        ),
    ] = "flow",
    trust: Trust = 0.95,
    prompt: Prompt = None,
    use: Used = None,
    size: Size = None,
    start: Start = None,
    stride: Stride = None,
    steps: Steps = 50,
    guidance: Guidance = 1.0,
    negative: Negative = "",
    seed: Seed = 0,
    strength: Strength = 1.0,
    window: Window = None,
    precision: NetworkPrecision = "auto",
    lora: Loras = None,
    prediction_type: PredictionType = "auto",
    device: Device = "auto",
) -> None:
    """Make frames in between those of a video, with weights tuned on it or on the clip that it is an edit of.

    The video's own frames stay as they are. Without a guess, the weights need --known-frames. A network made for
    interpolation, such as RIFE or FILM in ComfyUI, is the better choice where neighbouring frames differ little.

    \b
    Example:
      tav interpolate skiing/a-panda-is-skiing.mp4 -w skiing.safetensors -c sd15.safetensors -o smooth.mp4
    """
    config = _config(prompt, steps, guidance, negative, seed, strength, window, precision)
    _run(
        Between(factor, value_of(guess), trust),
        (video, weights, checkpoint, output),
        config,
        _changed(use, size, start, stride),
        base_options(lora, prediction_type) | {"device": choose_device(device)},
    )


@app.command(no_args_is_help=True)
def extend(
    video: Video,
    weights: Weights,
    checkpoint: CheckpointPath,
    output: Output,
    frames: Annotated[int, typer.Option("--frames", "-f", help="How many frames to add, 1 or more.")],
    direction: Annotated[
        Direction, typer.Option(help="After the video, before it, or back to its first frame, so that it loops.")
    ] = "onwards",
    guess: Annotated[
        Continued,
        typer.Option(help="What new frames look like at first: what moves goes on as it did (optical flow), or none."),
    ] = "flow",
    trust: Trust = 0.6,
    correction: Annotated[
        float,
        typer.Option(
            help="Against drift (not in a loop): the share of the steps, 0 to below 1, by which new frames are noised "
            "and denoised again."
        ),
    ] = 0.0,
    prompt: Prompt = None,
    use: Used = None,
    size: Size = None,
    start: Start = None,
    stride: Stride = None,
    steps: Steps = 50,
    guidance: Guidance = 1.0,
    negative: Negative = "",
    seed: Seed = 0,
    strength: Strength = 1.0,
    window: Window = None,
    precision: NetworkPrecision = "auto",
    lora: Loras = None,
    prediction_type: PredictionType = "auto",
    device: Device = "auto",
) -> None:
    """Continue a video onwards, backwards or in a loop, with weights tuned on it or on the clip it is an edit of.

    The video's own frames stay as they are. It is continued a window at a time, each from the frames before. Without a
    guess, the weights need --known-frames. A loop takes at most as many new frames as the network sees at once, less 2.

    \b
    Example:
      tav extend skiing.mp4 -w skiing.safetensors -c sd15.safetensors -o longer.mp4 --frames 12
    """
    config = _config(prompt, steps, guidance, negative, seed, strength, window, precision)
    _run(
        Onwards(frames, value_of(direction), correction, value_of(guess), trust),
        (video, weights, checkpoint, output),
        config,
        _changed(use, size, start, stride),
        base_options(lora, prediction_type) | {"device": choose_device(device)},
    )


def _config(prompt, steps, guidance, negative, seed, strength, window, precision) -> FillConfig:
    return FillConfig(prompt, steps, guidance, negative, seed, strength, window, value_of(precision))


def _changed(use: int | None, size: str | None, start: int | None, stride: int | None) -> dict:
    changed = {"frames": use, "size": size and size_of(size), "start": start, "stride": stride}
    return {name: value for name, value in changed.items() if value is not None}


def _run(task: Between | Onwards, files: tuple[Path, Path, Path, Path], config: FillConfig, changed: dict, base: dict):
    video, weights, checkpoint, _ = files
    say(f"Reading {video.name}, opening {checkpoint.name} with {weights.name}.")
    bars = progress_bars()
    run_filling(prepare_filling(*files, task, config=config, changed=changed, on_step=bars, **base))
