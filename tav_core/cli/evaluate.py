"""`tav eval`: measures the method on the drawn world, or computes the paper's CLIP scores for given edits."""

import json
import platform
import shlex
import sys
from collections.abc import Callable
from contextlib import closing
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from tqdm import tqdm

from ..checkpoints.checkpoint import Checkpoint
from ..demo.miniature import miniature_path
from ..demo.settings import SETTINGS, Settings
from ..errors import TavError, need
from ..evaluation.evaluate import Outcome, evaluate
from ..evaluation.paper_table import edited_videos, score_videos, scores_as_json, scores_as_rows
from ..evaluation.processes import evaluate_in_processes
from ..evaluation.report import (
    Values,
    as_claims,
    as_json,
    as_tables,
    by_variant,
    check_beside,
    explanation,
    read_json,
    table,
)
from ..evaluation.report import beside as joined
from ..evaluation.variants import VARIANTS, Variant
from ..files import atomic_path, ensure_writable
from ..jobs.base import choose_device, open_base, versions
from ..metrics import ClipScorer
from ..video.contact_sheet import contact_sheet
from ..world.protocol import WorldClip, clips_to_choose_by, clips_to_report
from .app import app
from .options import Device, GroupNorm, Loras, PredictionType, base_options
from .screen import progress_bars

CLIPS = {
    "report": clips_to_report,
    "choose": clips_to_choose_by,
    "all": lambda: clips_to_choose_by() + clips_to_report(),
}
Clips = Enum("Clips", [(name, name) for name in CLIPS], type=str)
FOR_BOTH = ("output", "results", "clip_model", "device")  # the other options are for the drawn world only
VariantName = Enum("VariantName", [(name, name) for name in VARIANTS], type=str)


@app.command("eval", no_args_is_help=True)
def evaluation(
    context: typer.Context,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="The output folder, for eval.md, eval.json and eval.png, or for scores.md and scores.json.",
        ),
    ],
    results: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RESULTS]...", help="Output folders of `tav edit`, to be scored with --clip-model."),
    ] = None,
    clip_model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="For RESULTS: a CLIP model's folder, or its name on the Hugging Face hub."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", "-c", metavar="PATH", help="The checkpoint to tune.", show_default="the miniature"
        ),
    ] = None,
    variant: Annotated[
        list[VariantName] | None,
        typer.Option(help="A variant to measure; repeatable.", show_default="all"),
    ] = None,
    clips: Annotated[
        Clips, typer.Option(help="Which clips: those for choosing settings, those for reporting, or all.")
    ] = "report",
    count: Annotated[int | None, typer.Option(help="Use only the first N clips.", show_default="all")] = None,
    frames: Annotated[int, typer.Option(help="Frames per clip.")] = SETTINGS.frames,
    tuning_steps: Annotated[int, typer.Option(help="Tuning steps.")] = SETTINGS.tuning_steps,
    learning_rate: Annotated[float, typer.Option(help="The learning rate of tuning.")] = SETTINGS.learning_rate,
    steps: Annotated[int, typer.Option(help="DDIM steps of each edit.")] = SETTINGS.steps,
    inversion_steps: Annotated[int, typer.Option(help="DDIM steps of the inversion.")] = SETTINGS.inversion_steps,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance.")] = SETTINGS.guidance_scale,
    group_norm: Annotated[
        GroupNorm, typer.Option(help="GroupNorm over the whole video or per frame, for variants that do not set it.")
    ] = SETTINGS.group_norm,
    seed: Annotated[int, typer.Option(help="The seed for tuning and all random noise.")] = 0,
    beside: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An eval.json of the same clips and settings, whose rows join the report."),
    ] = None,
    lora: Loras = None,
    prediction_type: PredictionType = "auto",
    device: Device = "auto",
    processes: Annotated[
        int, typer.Option(help="Clips measured at once, each in a process with its share of the threads.")
    ] = 1,
    force: Annotated[bool, typer.Option("--force", help="Discard the samples in DIR/.eval and start over.")] = False,
) -> None:
    """Measure the method and its ablations, or score edits as the paper does.

    Without RESULTS, a checkpoint is tuned on clips of a drawn world whose ground truth is known, and each variant of
    the method edits them. DIR/.eval keeps the samples, so that an interrupted run resumes, and a contact sheet of all
    edits of each clip. With RESULTS and --clip-model, the frame consistency and textual faithfulness of those videos
    are listed next to the published scores.

    \b
    Examples:
      tav eval -o eval
      tav eval skiing surfing --clip-model openai/clip-vit-large-patch14 -o scores
    """
    if bool(results) != bool(clip_model):
        raise TavError(
            "To score videos, give folders of results and a --clip-model; for the drawn world, give neither."
        )
    if results:
        _refuse_drawn_world_options(context)
    need(count is None or count > 0, "count", count, "1 or more")
    need(frames > 1, "frames", frames, "2 or more")
    need(0 <= seed < 2**63, "seed", seed, "a whole number of at least 0, below 2^63")
    need(0 < processes <= 64, "processes", processes, "1 to 64")
    earlier = read_json(beside) if beside else None
    ensure_writable(output)
    torch_device = choose_device(device)
    shared = torch_device.type in ("cpu", "cuda")
    need(processes == 1 or shared, "processes", processes, f"1 on {torch_device}")
    if results:
        _score(results, clip_model, output, torch_device)
        return
    chosen = {VariantName(name).value for name in variant or VariantName}
    _measure(
        CLIPS[Clips(clips).value]()[:count],
        {name: each for name, each in VARIANTS.items() if name in chosen},
        Settings(tuning_steps, learning_rate, steps, inversion_steps, guidance, frames, GroupNorm(group_norm).value),
        partial(_opened, checkpoint or miniature_path(), device=torch_device, **base_options(lora, prediction_type)),
        output,
        seed=seed,
        device=torch_device,
        processes=processes,
        force=force,
        earlier=earlier,
    )


def _opened(checkpoint: Path, **options) -> Checkpoint:
    return open_base(checkpoint, **options).checkpoint


def _refuse_drawn_world_options(context: typer.Context) -> None:
    # compared by name, because the class of the source depends on the version of typer
    given = (name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE")
    if refused := [f"--{name.replace('_', '-')}" for name in given if name not in FOR_BOTH]:
        raise TavError(f"{', '.join(refused)} is for the drawn world only; leave it out when scoring RESULTS.")


def _measure(
    clips: list[WorldClip],
    variants: dict[str, Variant],
    settings: Settings,
    open_checkpoint: Callable[[], Checkpoint],
    output: Path,
    *,
    seed: int,
    device: torch.device,
    processes: int,
    force: bool,
    earlier: Values | None,
) -> None:
    if earlier:
        check_beside((clip.name for clip in clips), earlier)
    opened, work = open_checkpoint(), output / ".eval"  # refuses a bad checkpoint before anything else is touched
    work.mkdir(exist_ok=True)
    for kept in work.glob("*.safetensors") if force else ():
        kept.unlink()
    shown = next((clip for clip in clips if clip.plan.name == "walk"), clips[0])
    rows, measured = {}, []
    if processes == 1:
        outcomes = evaluate(opened, clips, variants, settings, seed=seed, work=work)
    else:
        outcomes = evaluate_in_processes(open_checkpoint, clips, variants, settings, processes, seed=seed, work=work)
    # closed, as an exception that is on its way keeps the generator, and its processes, alive
    with closing(outcomes), tqdm(total=len(variants) * len(clips), desc="Evaluating", unit="variant") as bar:
        for outcome in outcomes:
            measured.append((outcome.variant, outcome.clip.name, outcome.figures))
            if not outcome.is_reference:
                bar.write(_line(outcome), file=sys.stderr)
                bar.update()
            if outcome.clip == shown:
                prompt = shown.prompt if outcome.variant == "source" else shown.edits[0].prompt
                rows[outcome.variant] = f"{outcome.variant}: {prompt}", outcome.edits[0]
    order = [clip.name for clip in clips]
    values = by_variant(sorted(measured, key=lambda each: order.index(each[1])))
    values = joined(values, earlier) if earlier else values
    variants = {name: VARIANTS[name] for name in values if name in VARIANTS}
    head = explanation(variants, len(clips), settings, shlex.join(["tav", *sys.argv[1:]]), _made_on(device))
    tables = as_tables(values)
    if claims := as_claims(values):
        tables += f"\n\n## Is each part needed?\n\n{claims}"
    contact_sheet(output / "eval.png", [rows[name] for name in ("source", "ideal", *variants) if name in rows])
    _write(output / "eval", f"{head}\n\n{tables}\n\n![All variants on one clip](eval.png)\n", as_json(values))
    typer.echo(f"{tables}\n")
    for name in ("eval.md", "eval.json", "eval.png"):
        typer.echo(output / name)


def _score(results: list[Path], clip_model: str, output: Path, device: torch.device) -> None:
    videos = [video for folder in results for video in edited_videos(folder)]
    scores = score_videos(videos, ClipScorer(clip_model, device), progress_bars())
    scored = table(["prompt", "frame consistency", "textual faithfulness"], scores_as_rows(videos, scores))
    head = f"""# CLIP scores

Mean cosine similarities by `{clip_model}`, times 100: of all pairs of frames, and of the frames with the prompt.
The published rows are from Table 1 of the paper, with its own clips, prompts and CLIP model."""
    _write(output / "scores", f"{head}\n\n{scored}\n", scores_as_json(videos, scores, clip_model))
    typer.echo(f"{scored}\n")
    for name in ("scores.md", "scores.json"):
        typer.echo(output / name)


def _write(stem: Path, report: str, figures: dict) -> None:
    """Writes STEM.md and STEM.json."""
    for suffix, text in ((".md", report), (".json", json.dumps(figures, indent=1) + "\n")):
        with atomic_path(stem.with_suffix(suffix)) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _made_on(device: torch.device) -> str:
    threads = f"{platform.machine()} CPU, threads: {torch.get_num_threads()}"
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    return f"{machine}, " + ", ".join(f"{name} {number}" for name, number in versions().items())


def _line(outcome: Outcome) -> str:
    edits = [named for kind, named in outcome.figures.items() if kind]
    means = {name: float(np.mean([named[name] for named in edits])) for name in ("edit_right", "iou", "jitter")}
    return (
        f"{outcome.clip.name}, {outcome.variant}: edit right {means['edit_right']:.0%}, IoU {means['iou']:.2f}, "
        f"jitter {means['jitter']:.1f} px, {outcome.figures['']['seconds']:.0f} s"
    )
