"""`tav info`: what a weights file was tuned on, and how."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..tuned import TunedWeights
from .app import app
from .screen import readable


@app.command(no_args_is_help=True)
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Tuned weights, as `tav tune` writes them.")],
    as_json: Annotated[bool, typer.Option("--json", help="All metadata as JSON, for machines.")] = False,
) -> None:
    """Say what a weights file was tuned on, and how.

    \b
    Example:
      tav info skiing.safetensors
    """
    weights = TunedWeights.load(file)
    facts = weights.facts.as_metadata() | {"tensors": len(weights.tensors), "bytes": file.stat().st_size}
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(file)
    config = facts.pop("config", {})
    foremost = {name: facts[name] for name in ("prompt", "clip", "frames", "size", "fps") if name in facts}
    for name, value in (foremost | facts | config).items():
        typer.echo(f"  {name.replace('_', ' '):<22}  {readable(name, value)}")
