"""`tav convert`: turns the output of the original implementation into tuned weights."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import TavError
from ..files import ensure_writable
from ..jobs.base import ensure_prompt, open_base
from ..jobs.original_weights import original_weights
from .app import app
from .options import CheckpointPath, Loras, base_options
from .screen import say


@app.command(no_args_is_help=True)
def convert(
    original: Annotated[
        Path, typer.Argument(metavar="ORIGINAL", help="The output_dir of the original's training, or its unet/.")
    ],
    checkpoint: CheckpointPath,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The tuned weights to write, a .safetensors file.")
    ],
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", help="The prompt it was tuned on.", show_default="from its config.yaml"),
    ] = None,
    lora: Loras = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Convert the output of the original Tune-A-Video to tuned weights, given the checkpoint it was tuned on.

    FILE works like a file from `tav tune`, on any checkpoint of the family. Pickles (.bin) are loaded with torch's
    weights-only loader, which runs no code.

    \b
    Example:
      tav convert outputs/man-skiing -c stable-diffusion-v1-4 -o skiing.safetensors
    """
    if output.suffix != ".safetensors":
        raise TavError(f"Tuned weights are written to a .safetensors file, got {output.name!r}; give it that suffix.")
    if output.exists() and not force:
        raise TavError(f"{output} already exists; choose another name, or overwrite it with --force.")
    if prompt is not None:
        ensure_prompt(prompt, "The clip's prompt")
    ensure_writable(output.parent)
    say(f"Opening {checkpoint.name} and reading {original}.")
    base = open_base(checkpoint, **base_options(lora, "auto"))
    metadata = {"checkpoint": checkpoint.name, "base_fingerprint": base.fingerprint}
    metadata |= {"prompt": prompt} if prompt else {}
    metadata |= {"loras": [lora.as_metadata() for lora in base.loras]} if base.loras else {}
    original_weights(original, base.checkpoint.unet, **metadata).save(output)
    typer.echo(output)
