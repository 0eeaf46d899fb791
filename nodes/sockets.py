"""What the nodes' schemas share: their category, the one socket type of our own, and what older hosts do not know."""

from collections.abc import Callable
from pathlib import Path

from comfy_api.latest import io

from ..tav_core.errors import TavError
from .host.versions import known

CATEGORY = "Tune-A-Video"
TunedWeightsSocket = io.Custom("TUNED_WEIGHTS")
LossMapSocket = io.Custom("LOSS_MAP")  # core's, which Plot Loss Graph reads


ADVANCED = known(io.Combo.Input, advanced=True)
# else the front end draws a new seed each time, and with it a new tuning
KEPT_SEED = {"control_after_generate": io.ControlAfterGenerate.fixed} if hasattr(io, "ControlAfterGenerate") else {}


def facts(**values) -> dict:
    """A node's facts for its `ui` result, found by a client in /history; lists, for the host keeps no dict there."""
    return {"tune_a_video": [values]}


def checked(check: Callable, *values) -> bool | str:
    """What `validate_inputs` returns of a check that raises; what comes over a link is None then, and waits for it."""
    try:
        if None not in values:
            check(*values)
    except TavError as error:
        return str(error)
    return True


def stamp(find: Callable[[str], Path], name: str | None) -> str | float:
    """What `fingerprint_inputs` returns of a file, to change when it does; empty where there is none.

    A name that comes over a link is None then: the host takes NaN for a change, unless it is the very same object.
    """
    if name is None:
        return float("nan")
    try:
        status = find(name).stat()
    except TavError:
        return ""
    return f"{status.st_mtime_ns} {status.st_size}"


def strength_input() -> io.Float.Input:
    tooltip = "How much of the tuning is applied, 0 to 2: 0 is the model without it, 1 all of it."
    return io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05, tooltip=tooltip)
