"""How `tav` speaks: sentences and progress on stderr, so that stdout holds results alone."""

from collections.abc import Callable

import typer
from tqdm import tqdm

from .jobs import MemoryPlan


def progress_bars() -> Callable:
    """A progress bar for each part of a job, in turn; a part that is resumed begins at its later step."""
    bar = None

    def on_step(step: int, total: int, *, part: str, **_) -> None:
        nonlocal bar
        bar = bar or tqdm(total=total, initial=step - 1, desc=part[:40], unit="step")
        bar.update()
        if step == total:
            bar.close()
            bar = None

    return on_step


def tell(sentence: str) -> None:
    typer.echo(sentence, err=True)


def warn(notes: list[str]) -> None:
    for note in notes:
        tell(f"Warning: {note}")


def tell_memory(plan: MemoryPlan, what: str) -> None:
    free = "how much is free cannot be told" if plan.available is None else f"{readable_bytes(plan.available)} are free"
    tell(f"{what} will take about {readable_bytes(plan.needed)} of memory beside the model; {free}.")
    if plan.available is not None and not plan.fits:
        more = ", or switch gradient checkpointing on" if plan.checkpointing is False else ""
        tell(f"Warning: it will hardly fit; take fewer frames or a smaller size{more}.")


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
