"""What the nodes' schemas share: their category, the one socket type of our own, and what older hosts do not know."""

import inspect

from comfy_api.latest import io

CATEGORY = "Tune-A-Video"
TunedWeightsSocket = io.Custom("TUNED_WEIGHTS")
LossMapSocket = io.Custom("LOSS_MAP")  # core's, which Plot Loss Graph reads


def known(kind: type, **options) -> dict:
    """Those of the options that this host's class has; ComfyUI 0.3.64 lacks `advanced` and `search_aliases`."""
    return {name: value for name, value in options.items() if name in inspect.signature(kind).parameters}


ADVANCED = known(io.Combo.Input, advanced=True)
# else the front end draws a new seed each time, and with it a new tuning
KEPT_SEED = {"control_after_generate": io.ControlAfterGenerate.fixed} if hasattr(io, "ControlAfterGenerate") else {}


def facts(**values) -> dict:
    """A node's facts for its `ui` result, found by a client in /history; lists, for the host keeps no dict there."""
    return {"tune_a_video": [values]}


def strength_input() -> io.Float.Input:
    tooltip = "How much of the tuning is applied, 0 to 2: 0 is the model without it, 1 all of it."
    return io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05, tooltip=tooltip)
