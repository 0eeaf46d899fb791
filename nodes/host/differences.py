"""Warnings about what differs from tuning: another checkpoint, or a missing LoRA or control."""

import logging

from comfy.model_patcher import ModelPatcher

from ...tav_core.tuned import TunedWeights
from ...tav_core.tuned_facts import missing_names, sibling_note
from .graph import Graph, controls_behind, loras_behind
from .inflate import inflated_of
from .progress import say
from .sd_model import file_of
from .weights import base_fingerprint


def warn_of_sibling(patcher: ModelPatcher, tuned: TunedWeights, node_id: str | None) -> str | None:
    """Warns if the weights were tuned on another checkpoint; returns the warning."""
    return warn(sibling_note(tuned.facts, file_of(patcher) or "this MODEL", base_fingerprint(patcher)), node_id)


def warn_of_missing(patcher: ModelPatcher, conditioning: list, graph: Graph, node_id: str | None) -> str | None:
    """Warns if a MODEL is not inflated, or if its weights were tuned with LoRAs or controls that are missing now.

    Returns the warning.

    Only where the MODEL is used: a LoRA may be loaded before or after the weights are applied.
    node_id: of the node that has the MODEL as `model` and the CONDITIONING as `positive`.
    """
    inflated = inflated_of(patcher)
    if inflated is None:
        return warn(
            "This MODEL is not inflated, so it treats each frame as a picture of its own; insert Inflate UNet or Load "
            "Tuned Weights before it.",
            node_id,
        )
    if not inflated.tuned:
        return None
    facts, absent = inflated.tuned.facts, []
    loras = {lora["file"] for lora in loras_behind(graph, node_id)}
    if loras or not has_loras(patcher):  # otherwise an unknown loader applied LoRAs, perhaps these
        absent.append(missing_names(facts.loras, loras, "file"))
    networks = [network for network, _ in controls_behind(graph, node_id)]
    has_controls = any(options.get("control") for _, options in conditioning)
    if None not in networks and (networks or not has_controls):
        absent.append(missing_names(facts.controls, networks, "network"))
    names = ", ".join(filter(None, absent))
    note = f"The weights were tuned with {names}, which this edit does not use; add it to match."
    return warn(note if names else None, node_id)


def has_loras(patcher: ModelPatcher) -> bool:
    """Whether the MODEL has patches; tuned weights are none."""
    return bool(patcher.patches)


def warn(note: str | None, node_id: str | None) -> str | None:
    """Shows a warning in the node and in the log; returns it."""
    if note:
        logging.warning("Tune-A-Video: %s", note)
        say(note, node_id)
    return note
