"""What the nodes' schemas share: their category, socket types, and options that older hosts lack."""

from collections.abc import Callable
from pathlib import Path

from comfy_api.latest import io

from ..tav_core.errors import TavError
from .host.versions import known

CATEGORY = "Tune-A-Video"
TunedWeightsSocket = io.Custom("TUNED_WEIGHTS")
LossMapSocket = io.Custom("LOSS_MAP")  # core's type, for Plot Loss Graph


ADVANCED = known(io.Combo.Input, advanced=True)
# otherwise the front end changes the seed after each run, and the next one tunes again
KEPT_SEED = {"control_after_generate": io.ControlAfterGenerate.fixed} if hasattr(io, "ControlAfterGenerate") else {}


def trust_input(default: float) -> io.Float.Input:
    """The input of nodes that make frames from a guess."""
    return io.Float.Input(
        "trust",
        default=default,
        min=0.0,
        max=0.99,
        step=0.01,
        optional=True,
        tooltip="For which share of the steps the guess stands in for the generated frames, 0 to 0.99: 0 ignores it, "
        "more stays closer to it. Only used with a guess or a VAE.",
    )


def ui_values(**values) -> dict:
    """A node's `ui` result, which clients read from /history; in a list, since the host reduces a dict to its keys."""
    return {"tune_a_video": [values]}


def place_in_graph(node: type[io.ComfyNode]) -> tuple[dict | None, str | None]:
    """The graph in API format and the node's id in it; None and None where a node is called from a script."""
    hidden = node.hidden
    return (hidden.prompt, hidden.unique_id) if hidden else (None, None)


def checked(check: Callable, *values) -> bool | str:
    """The result of `validate_inputs` for a check that raises; skipped if an input is linked, and so still None."""
    try:
        if None not in values:
            check(*values)
    except TavError as error:
        return str(error)
    return True


def stamp(find: Callable[[str], Path], name: str | None) -> str | float:
    """The result of `fingerprint_inputs` for a file: changes when the file does; empty if there is none.

    A linked name is still None here. NaN then counts as a change, unless it is the very same object.
    """
    if name is None:
        return float("nan")
    try:
        status = find(name).stat()
    except TavError:
        return ""
    return f"{status.st_mtime_ns} {status.st_size}"


def strength_input() -> io.Float.Input:
    tooltip = "How much of the tuning is applied, 0 to 2: 0 is none, 1 is all of it."
    return io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05, tooltip=tooltip)
