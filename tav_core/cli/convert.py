"""`tav convert`: a result of the original implementation becomes a tuned-weights file of ours."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import TavError
from ..files import ensure_writable
from ..jobs.base import ensure_prompt, open_base
from ..jobs.original_weights import original_weights
from .app import app
from .options import CheckpointPath, Loras, laid_over
from .screen import say


@app.command(no_args_is_help=True)
def convert(
    original: Annotated[
        Path, typer.Argument(metavar="ORIGINAL", help="The output_dir of the original's training, or the unet/ in it.")
    ],
    checkpoint: CheckpointPath,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where the tuned weights go: a .safetensors file.")
    ],
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", help="The sentence it was tuned on.", show_default="as its config.yaml says"),
    ] = None,
    lora: Loras = None,
    force: Annotated[bool, typer.Option("--force", help="Replace whatever FILE holds.")] = False,
) -> None:
    """Convert a result of the original Tune-A-Video into tuned weights, against the checkpoint it was tuned on.

    FILE is like those of `tav tune`: it goes onto any checkpoint of the family. Pickles (.bin) are opened by torch's
    weights-only loader, which runs nothing.

    \b
    Example:
      tav convert outputs/man-skiing -c stable-diffusion-v1-4 -o skiing.safetensors
    """
    if output.suffix != ".safetensors":
        raise TavError(f"Tuned weights are written to a .safetensors file, got {output.name!r}; give it that suffix.")
    if output.exists() and not force:
        raise TavError(f"{output} exists; choose another name, or force its replacement (--force).")
    if prompt is not None:
        ensure_prompt(prompt, "The prompt of the clip")
    ensure_writable(output.parent)
    say(f"Opening {checkpoint.name} and reading {original}.")
    base = open_base(checkpoint, **laid_over(lora, "auto"))
    known = {"checkpoint": checkpoint.name, "base_fingerprint": base.fingerprint}
    known |= {"prompt": prompt} if prompt else {}
    original_weights(original, base.checkpoint.unet, **known).save(output)
    typer.echo(output)
