"""`tav demo`: runs the whole method on a CPU, with nothing to download."""

from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints.prompt_weights import without_weights
from ..demo.showcase import PROMPTS, SOURCE, run_demo
from ..jobs.base import choose_device
from ..world.vocabulary import WORDS, unknown_words
from .app import app
from .options import Device
from .screen import progress_bars, say


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The output folder.")] = Path(
        "demo-output"
    ),
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="A prompt to edit with, instead of the default four; repeatable."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Draw a clip, tune the bundled miniature model on it, and edit it; nothing is downloaded.

    \b
    Example:
      tav demo -p "a green triangle is moving on the moon, at night"
    """
    prompts = tuple(prompt or PROMPTS)
    if unknown := unknown_words(" ".join(map(without_weights, prompts))):
        say(f"Warning: the miniature does not know {', '.join(unknown)}. It knows: {' '.join(WORDS)}")
    manifest = run_demo(output, prompts, device=choose_device(device), say=say, on_step=progress_bars())
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in manifest["parts"].items())
    say(f'\nFrom "{SOURCE.caption}", reconstructed at {manifest["reconstruction_psnr"]:.1f} dB PSNR:')
    for edit in manifest["edits"]:
        right = "" if edit["attribute_right"] is None else f"right in {100 * edit['attribute_right']:.0f} % of frames, "
        say(f"  {edit['prompt']}: {right}motion correlation {edit['trajectory_correlation']:.2f}")
    say(f"Took {manifest['seconds']:.0f} s: {parts}.")
    for name in ("sheet.png", "loss.png", "manifest.json", *(edit["path"] for edit in manifest["edits"])):
        typer.echo(output / name)
