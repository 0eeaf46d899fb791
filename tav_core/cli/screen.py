"""Messages and progress of `tav`, on stderr, so that stdout holds results only."""

from collections.abc import Callable

import typer
from tqdm import tqdm

from ..jobs.base import MemoryPlan
from ..jobs.edit_run import EditRun
from ..jobs.filling import FillingRun
from ..jobs.tuning import TuningRun

FRAME_BY_FRAME = ("encoding", "guess", "writing")  # parts of jobs


def progress_bars() -> Callable:
    """An `on_step` that shows a progress bar for each part of a job in turn, starting at the first step it sees."""
    bar = None

    def on_step(step: int, total: int, *, part: str, **_) -> None:
        nonlocal bar
        unit = "frame" if part in FRAME_BY_FRAME else "step"
        bar = bar or tqdm(total=total, initial=step - 1, desc=part[:40], unit=unit)
        bar.update()
        if step == total:
            bar.close()
            bar = None

    return on_step


def run_tuning(job: TuningRun) -> None:
    """Runs a tuning job, showing its warnings, memory estimate and progress.

    On Ctrl-C, raises a KeyboardInterrupt that says how far the run got.
    """
    warn(job.notes)
    if job.is_done:
        say("This run is already finished; there is nothing left to do.")
        typer.echo(job.output)
        return
    say_memory(job.memory, "Tuning")
    if job.memory.checkpointing and job.config.gradient_checkpointing == "auto":
        why = "a step would not fit without it" if job.memory.available else "free memory is unknown"
        say(f"Gradient checkpointing is on, because {why}.")
    total, first_step = job.config.num_steps, job.first_step
    if first_step:
        say(f"Resuming at step {first_step} of {total}.")
    try:
        with tqdm(total=total, initial=first_step, desc="Tuning", unit="step") as bar:

            def on_step(step: int, total: int, *, loss: float, **_) -> None:
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                bar.update()

            report = job.run(on_step)
    except KeyboardInterrupt:
        done = f"Stopped after step {job.first_step} of {total}; run the same command again to resume."
        raise KeyboardInterrupt(done) from None
    say(f"Tuned {report.steps} steps, final loss {report.losses[-1]:.4f}.")
    typer.echo(job.output)


def run_edit(job: EditRun) -> None:
    """Runs an edit, showing its warnings, memory estimate and progress, and prints the files it wrote to stdout."""
    warn(job.notes)
    for remark in job.keeping.remarks:
        say(remark)
    say_memory(job.memory, "Sampling")
    if job.kept:
        say(f"Reusing the inversion in {job.folder}; clip, weights and settings are the same.")
    report = job.run(progress_bars())
    if report.psnr is not None:
        say(f"The inversion reconstructs the clip at {report.psnr:.1f} dB PSNR.")
    for path in (*(edit.path for edit in report.edits), report.sheet, report.manifest):
        typer.echo(path)


def run_filling(job: FillingRun) -> None:
    """Runs a job that adds frames, showing its warnings, memory estimate and progress, and prints the video's path."""
    warn(job.notes)
    for remark in job.remarks:
        say(remark)
    say_memory(job.memory, "Sampling")
    path = job.run(progress_bars())
    say(f"{job.count} frames, {job.added} of them new, in {job.seconds:.0f} s.")
    typer.echo(path)


def say(message: str) -> None:
    typer.echo(message, err=True)


def warn(notes: list[str]) -> None:
    for note in notes:
        say(f"Warning: {note}")


def say_memory(plan: MemoryPlan, what: str) -> None:
    if plan.available is None:
        free = "free memory is unknown; it may not fit"
    else:
        free = f"{readable_bytes(plan.available)} are free"
    say(f"{what} will take about {readable_bytes(plan.needed)} of memory on top of the model; {free}.")
    if plan.available is not None and not plan.fits:
        more = ", or turn on gradient checkpointing" if plan.checkpointing is False else ""
        say(f"Warning: it will probably not fit; use --window, fewer frames or a smaller size{more}.")


def readable_bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def readable(name: str, value) -> str:
    if name == "size":
        return "x".join(map(str, value)) if isinstance(value, list) else str(value)
    if name == "bytes":
        return readable_bytes(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {readable(key, part)}" for key, part in value.items())
    if isinstance(value, list):
        return "; ".join(readable(name, part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
