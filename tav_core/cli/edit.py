"""`tav edit`: edits a clip with new prompts and weights tuned on it."""

from pathlib import Path
from typing import Annotated

import typer

from ..jobs.base import choose_device
from ..jobs.control_choice import choices
from ..jobs.edit_config import EditConfig
from ..jobs.editing import prepare_edit
from ..jobs.mask_choice import FORM, MaskChoice
from ..reweight import FORM as WEIGHT_FORM
from ..reweight import read_weights
from .app import app
from .options import (
    ByTime,
    ByTimeHelp,
    ClipPath,
    ControlImages,
    Controls,
    Device,
    Fit,
    FitHelp,
    FramesHelp,
    InvertWith,
    Loras,
    OptionalCheckpoint,
    Precision,
    PredictionType,
    SizeHelp,
    StartHelp,
    StrideHelp,
    base_options,
    size_of,
    value_of,
)
from .screen import progress_bars, run_edit, say


@app.command(no_args_is_help=True)
def edit(
    clip: ClipPath,
    weights: Annotated[
        Path,
        typer.Option(
            "--weights",
            "-w",
            metavar="FILE",
            help="A file from `tav tune`, or the output folder of the original Tune-A-Video's training.",
        ),
    ],
    prompt: Annotated[
        list[str], typer.Option("--prompt", "-p", help="A prompt to edit with; repeat it for more videos.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The output folder.")],
    checkpoint: OptionalCheckpoint = None,
    frames: Annotated[int | None, typer.Option(help=FramesHelp, show_default="as tuned")] = None,
    size: Annotated[str | None, typer.Option(help=SizeHelp, show_default="as tuned")] = None,
    start: Annotated[int | None, typer.Option(help=StartHelp, show_default="as tuned")] = None,
    stride: Annotated[int | None, typer.Option(help=StrideHelp, show_default="as tuned")] = None,
    fit: Annotated[Fit | None, typer.Option(help=FitHelp, show_default="as tuned")] = None,
    by_time: Annotated[bool | None, typer.Option(ByTime, help=ByTimeHelp, show_default="as tuned")] = None,
    steps: Annotated[int, typer.Option(help="DDIM steps per video, 1 to 999.")] = 50,
    inversion_steps: Annotated[int, typer.Option(help="DDIM steps of the inversion, 1 to 999.")] = 50,
    inversion_prompt: Annotated[str, typer.Option(help="The prompt for the inversion.")] = "",
    invert_with: Annotated[
        InvertWith,
        typer.Option(
            help="How to invert: ddim, as in the paper, or fixed-point, which reconstructs better, in 4x the time."
        ),
    ] = "ddim",
    keep_structure: Annotated[
        float,
        typer.Option(
            help="The share of the steps, 0 to 1, in which the edit borrows the clip's features: its shapes and motion."
        ),
    ] = 0.0,
    keep_layout: Annotated[
        float,
        typer.Option(
            help="The share of the steps, 0 to 1, in which words of both prompts stay where the clip has them."
        ),
    ] = 0.0,
    reweight: Annotated[
        list[str] | None,
        typer.Option(
            metavar=WEIGHT_FORM,
            help="Words of a prompt that count this much more or less, while the layout is kept; repeatable.",
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar=FORM,
            help="Change the clip only here: a clip, folder or image, white where it may change, or a word of the "
            "clip's prompt, as in WORD:ball.",
        ),
    ] = None,
    mask_grow: Annotated[
        int, typer.Option(help="Grow the mask by this many pixels; a tight one cuts off new shapes.")
    ] = 0,
    source_prompt: Annotated[
        str | None, typer.Option(help="The clip's prompt, for what is kept.", show_default="as tuned")
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(help="For long clips: frames that the network sees at once; 0 for all.", show_default="as tuned"),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(help="Frames that two neighbouring windows share.", show_default="a quarter of the window"),
    ] = None,
    guidance: Annotated[
        float, typer.Option(help="Classifier-free guidance scale; 1 or less is off, and twice as fast.")
    ] = 12.5,
    negative: Annotated[str, typer.Option(help="The negative prompt.")] = "",
    eta: Annotated[float, typer.Option(help="Noise added while sampling, 0 (none) to 1 (as much as DDPM).")] = 0.0,
    seed: Annotated[int, typer.Option(help="The seed of the added noise.")] = 0,
    strength: Annotated[
        float, typer.Option(help="The strength of the tuned weights; 0 is the inflated checkpoint.")
    ] = 1.0,
    precision: Annotated[
        Precision, typer.Option(help="The precision of the network; auto: fp16 on a GPU, no (float32) on the CPU.")
    ] = "auto",
    lora: Loras = None,
    control: Controls = None,
    control_pictures: ControlImages = None,
    prediction_type: PredictionType = "auto",
    device: Device = "auto",
) -> None:
    """Edit a clip with new prompts and weights tuned on it.

    The clip is inverted once; DIR keeps the inversion, which is reused while clip, weights and settings are the same.
    Each prompt gives an mp4. reconstruction.mp4 is the clip sampled back from its noise, and shows how faithful the
    inversion is. sheet.png shows frames of all videos, a row each, and manifest.json records how they were made.

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
        invert_with=value_of(invert_with),
        keep_structure=keep_structure,
        keep_layout=keep_layout,
        reweight=read_weights(reweight or []),
        source_prompt=source_prompt,
        window=window,
        overlap=overlap,
    )
    changed = {
        "frames": frames,
        "size": size and size_of(size),
        "start": start,
        "stride": stride,
        "fit": value_of(fit),
        "by_time": by_time,
    }
    say(f"Reading {clip.name}, opening {(checkpoint or weights).name} with {weights.name}.")
    job = prepare_edit(
        clip,
        weights,
        checkpoint,
        prompt,
        output,
        config=config,
        changed={name: value for name, value in changed.items() if value is not None},
        device=choose_device(device),
        controls=choices(control or (), control_pictures or ()),
        mask=MaskChoice.parse(mask, mask_grow) if mask is not None else None,
        on_step=progress_bars(),
        **base_options(lora, prediction_type),
    )
    run_edit(job)
