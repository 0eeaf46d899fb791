"""Options that several commands of `tav` share, and how their values are parsed."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..attention import PATTERNS
from ..checkpoints.lora import Lora
from ..errors import TavError, shown
from ..inflation import GROUP_NORMS
from ..jobs.control_choice import FORM
from ..merge import MERGES
from ..precision import PRECISIONS
from ..steps import INVERSIONS
from ..video.choose import FITS

SWITCH = {"auto": "auto", "on": True, "off": False}


def choice(name: str, values) -> type[Enum]:
    """The type of an option that takes one of these values."""
    return Enum(name, [(value, value) for value in values], type=str)


Fit = choice("Fit", FITS)
Attention = choice("Attention", PATTERNS)
GroupNorm = choice("GroupNorm", GROUP_NORMS)
Merge = choice("Merge", MERGES)
Precision = choice("Precision", ("auto", *PRECISIONS))
InvertWith = choice("InvertWith", INVERSIONS)
Switch = choice("Switch", SWITCH)
Prediction = choice("Prediction", ("auto", "epsilon", "v_prediction"))

ClipPath = Annotated[
    Path,
    typer.Argument(
        metavar="CLIP", help="A video (mp4, mov, mkv, webm), a GIF, an animated WebP, or a folder of images."
    ),
]
CheckpointPath = Annotated[
    Path,
    typer.Option(
        "--checkpoint", "-c", metavar="PATH", help="Stable Diffusion 1.x or 2.x: a .safetensors file or a folder."
    ),
]
OptionalCheckpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        "-c",
        metavar="PATH",
        help="As for `tav tune`; optional if --weights is a folder of the original's that holds it.",
    ),
]
Loras = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="FILE[:STRENGTH]", help="A LoRA for the checkpoint; repeatable."),
]
Controls = Annotated[
    list[str] | None,
    typer.Option(
        "--control",
        metavar=FORM,
        help="Guide the video by control images: TYPE is controlnet or t2i-adapter, PATH its file or folder, START and "
        "END are fractions of sampling, 0 to 1; repeatable.",
    ),
]
ControlImages = Annotated[
    list[Path] | None,
    typer.Option(
        "--control-pictures",
        metavar="CLIP",
        help="The control images of each --control (poses, depth, edges): a clip or a folder with one image per frame, "
        "or one image for all frames.",
    ),
]
PredictionType = Annotated[
    Prediction, typer.Option(help="What the checkpoint predicts; auto: detected from its config or weights.")
]
Device = Annotated[str, typer.Option(help="auto (the GPU if there is one), cpu, cuda, cuda:1, ...")]
FramesHelp = "Number of frames, 1 or more; more frames take more memory."
SizeHelp = "Size in pixels, multiples of 8: one side (512) or WxH (512x320); larger sizes take more memory."
StartHelp = "The first frame to use, counted from 0."
StrideHelp = "Use every N-th frame; 0 spreads the frames evenly over the clip."
ByTime, ByTimeHelp = "--by-time/--by-number", "Spread the frames evenly over the clip's time, or over its frames."
FitHelp = "How to reach another aspect ratio: crop the edges, pad with black, or stretch."


def base_options(loras: list[str] | None, prediction_type: Prediction | str) -> dict:
    """The options of `open_base`."""
    kind = value_of(prediction_type)
    return {"loras": tuple(map(Lora.parse, loras or ())), "prediction_type": None if kind == "auto" else kind}


def value_of(chosen: Enum | str | None) -> str | None:
    """The value of an option with choices; a default comes as a plain string."""
    return chosen.value if isinstance(chosen, Enum) else chosen


def size_of(text: str) -> int | tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise TavError(f"The size is {shown(text)}; give one side, such as 512, or WIDTHxHEIGHT, such as 512x320.")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
