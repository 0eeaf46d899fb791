"""What the commands of `tav` are told by: options that several of them share, and what their words mean."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..attention import PATTERNS
from ..checkpoints.lora import Lora
from ..errors import TavError
from ..inflation import GROUP_NORMS
from ..jobs.control_choice import FORM
from ..precision import PRECISIONS
from ..video.choose import FITS

SWITCH = {"auto": "auto", "on": True, "off": False}


def _choice(name: str, values) -> type[Enum]:
    return Enum(name, [(value, value) for value in values], type=str)


Fit = _choice("Fit", FITS)
Attention = _choice("Attention", PATTERNS)
GroupNorm = _choice("GroupNorm", GROUP_NORMS)
Precision = _choice("Precision", ("auto", *PRECISIONS))
Switch = _choice("Switch", SWITCH)
Prediction = _choice("Prediction", ("auto", "epsilon", "v_prediction"))

ClipPath = Annotated[
    Path, typer.Argument(metavar="CLIP", help="A video (mp4, mov, mkv, webm), a GIF, or a folder of images.")
]
CheckpointPath = Annotated[
    Path,
    typer.Option(
        "--checkpoint", "-c", metavar="PATH", help="Stable Diffusion 1.x or 2.x: a .safetensors file, or a folder."
    ),
]
OptionalCheckpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        "-c",
        metavar="PATH",
        help="As for `tav tune`; not needed where the original's folder holds it.",
    ),
]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", metavar="FILE[:STRENGTH]", help="A LoRA to lay over the checkpoint; again for each further one."
    ),
]
Controls = Annotated[
    list[str] | None,
    typer.Option(
        "--control",
        metavar=FORM,
        help="Hold the video to pictures: TYPE is controlnet or t2i-adapter, PATH its file or folder, START and END "
        "are parts of sampling, 0 to 1; again for each further one.",
    ),
]
Pictures = Annotated[
    list[Path] | None,
    typer.Option(
        "--control-pictures",
        metavar="CLIP",
        help="For each --control its pictures (poses, depth, edges), ready made: a clip or a folder, one picture per "
        "frame, or one image for all.",
    ),
]
PredictionType = Annotated[
    Prediction, typer.Option(help="What the checkpoint predicts; auto: as it says, or as its weights look.")
]
Device = Annotated[str, typer.Option(help="auto (the GPU if there is one), cpu, cuda, cuda:1, ...")]
FramesHelp = "Frames to take, 1 or more; memory grows with them."
SizeHelp = "Pixels, multiples of 8: one side (512) or WxH (512x320); memory grows with them."
StartHelp = "The first frame to take, counted from 0."
StrideHelp = "Take every N-th frame; 0 spreads them evenly from the first to the last."
FitHelp = "Into another aspect: crop the edges, pad with black, or stretch."


def laid_over(loras: list[str] | None, prediction_type: Prediction | str) -> dict:
    """What `open_base` takes beside a checkpoint."""
    told = value_of(prediction_type)
    return {"loras": tuple(map(Lora.parse, loras or ())), "prediction_type": None if told == "auto" else told}


def value_of(chosen: Enum | str | None) -> str | None:
    """What an option of choices says; a default comes as the plain word."""
    return chosen.value if isinstance(chosen, Enum) else chosen


def size_of(text: str) -> int | tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise TavError(f"The size is {text!r}; give one side, such as 512, or WIDTHxHEIGHT, such as 512x320.")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
