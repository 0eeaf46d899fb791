"""`tav info`: shows what a weights file was tuned on, and how."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..tuned import TunedWeights
from .app import app
from .screen import readable


@app.command(no_args_is_help=True)
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of tuned weights.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print all metadata as JSON.")] = False,
) -> None:
    """Show what a weights file was tuned on, and how.

    \b
    Example:
      tav info skiing.safetensors
    """
    weights = TunedWeights.load(file)
    metadata = weights.facts.as_metadata() | {"tensors": len(weights.tensors), "bytes": file.stat().st_size}
    if as_json:
        typer.echo(json.dumps(metadata, indent=2))
        return
    typer.echo(file)
    config = metadata.pop("config", {})
    first = {name: metadata[name] for name in ("prompt", "clip", "frames", "size", "fps") if name in metadata}
    for name, value in (first | metadata | config).items():
        typer.echo(f"  {name.replace('_', ' '):<22}  {readable(name, value)}")
