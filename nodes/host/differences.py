"""Warnings about what differs from tuning: another checkpoint, or a missing LoRA or control."""

import logging

from comfy.model_patcher import ModelPatcher

from ...tav_core.tuned import TunedWeights
from ...tav_core.tuned_facts import missing_names, sibling_note
from .graph import Graph, controls_behind, loras_behind
from .inflate import QueryDifference, inflated_of
from .progress import say
from .sd_model import file_of
from .weights import base_fingerprint


def warn_of_model(patcher: ModelPatcher, tuned: TunedWeights, graph: Graph, node_id: str | None) -> str | None:
    """Warns if the weights were tuned on another checkpoint, or with a LoRA that is missing here; returns the warning.

    node_id: of the node that applies the weights to its `model`.
    """
    sibling = sibling_note(tuned.facts, file_of(patcher) or "this MODEL", base_fingerprint(patcher))
    present = {lora["file"] for lora in loras_behind(graph, node_id)}
    absent = ""
    if present or not has_loras(patcher):  # otherwise an unknown loader applied LoRAs, perhaps these
        absent = missing_names(tuned.facts.loras, present, "file")
    lora = f"The weights were tuned with {absent}, which is missing here; load it too." if absent else None
    return _warn(" ".join(filter(None, (sibling, lora))), node_id)


def warn_of_controls(patcher: ModelPatcher, conditioning: list, graph: Graph, node_id: str | None) -> str | None:
    """Warns if a MODEL was tuned with controls that a CONDITIONING lacks; returns the warning.

    node_id: of the node whose `positive` input it is.
    """
    inflated = inflated_of(patcher)
    if not (inflated and inflated.tuned and inflated.tuned.facts.controls):
        return None
    networks = [network for network, _ in controls_behind(graph, node_id)]
    if None in networks or (not networks and any(options.get("control") for _, options in conditioning)):
        return None
    absent = missing_names(inflated.tuned.facts.controls, networks, "network")
    note = f"The weights were tuned with {absent}, which is missing here; add it with Apply ControlNet."
    return _warn(note if absent else "", node_id)


def has_loras(patcher: ModelPatcher) -> bool:
    """Whether the MODEL has patches other than our tuned weights."""
    return any(not isinstance(patch[1], QueryDifference) for patches in patcher.patches.values() for patch in patches)


def _warn(note: str, node_id: str | None) -> str | None:
    if not note:
        return None
    logging.warning("Tune-A-Video: %s", note)
    say(note, node_id)
    return note
