"""`tav run`: tunes and edits as set in a YAML config of the original."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..files import ensure_writable
from ..jobs.base import choose_device
from ..jobs.control_choice import choices
from ..jobs.editing import prepare_edit
from ..jobs.tuning import prepare_tuning
from .app import app
from .options import ControlImages, Controls, Device, Loras, PredictionType, base_options
from .original_config import read_config
from .screen import progress_bars, run_edit, run_tuning, say


@app.command(no_args_is_help=True)
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="A config of the original implementation.")],
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", "-c", metavar="PATH", help="Overrides pretrained_model_path.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The output folder; overrides output_dir.")
    ] = None,
    lora: Loras = None,
    control: Controls = None,
    control_pictures: ControlImages = None,
    prediction_type: PredictionType = "auto",
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite tuned.safetensors and tune again.")] = False,
) -> None:
    """Tune, then edit, as set in a YAML config of the original implementation.

    The output folder gets tuned.safetensors, a copy of the config, and all that `tav edit` writes. As in the original,
    frames are stretched to the size and the VAE posterior is sampled. Clip and checkpoint are searched for in the
    working directory, then in the config's folder and its parent.

    \b
    Example:
      tav run configs/man-skiing.yaml -c sd14.safetensors
    """
    given = read_config(config, checkpoint=checkpoint, output=output)
    if given.ignored:
        say(f"Ignored, because it has no meaning here: {', '.join(given.ignored)}.")
    chosen, settings = choose_device(device), given.tune
    if chosen.type == "cpu" and settings.mixed_precision != "no":
        say(f"Ignored, because it is not faster on a CPU: mixed_precision {settings.mixed_precision}.")
        settings = replace(settings, mixed_precision="no")
    used = {"controls": choices(control or (), control_pictures or ()), **base_options(lora, prediction_type)}
    ensure_writable(given.output)
    given.edited.read()  # so that missing validation frames raise before tuning
    weights = given.output / "tuned.safetensors"
    say(f"Reading {given.tuned.frames} frames of {given.tuned.clip.name} and opening {given.checkpoint.name}.")
    tuning = prepare_tuning(
        given.tuned,
        given.prompt,
        given.checkpoint,
        weights,
        config=settings,
        posterior=True,
        device=chosen,
        replace_output=force,
        on_step=progress_bars(),
        **used,
    )
    run_tuning(tuning)
    del tuning
    copy = given.output / "config.yaml"
    if not copy.exists() or not copy.samefile(config):
        shutil.copyfile(config, copy)
    say(f"Reading {given.edited.clip.name}, opening {given.checkpoint.name} with {weights.name}.")
    editing = prepare_edit(
        given.edited,
        weights,
        given.checkpoint,
        given.prompts,
        given.output,
        config=given.edit,
        device=chosen,
        on_step=progress_bars(),
        **used,
    )
    run_edit(editing)
