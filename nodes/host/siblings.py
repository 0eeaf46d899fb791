"""Tuned weights on another checkpoint than they were tuned on: allowed, and said."""

import logging

from comfy.model_patcher import ModelPatcher

from ...tav_core.tuned import TunedWeights
from .progress import say
from .sd_model import file_of
from .weights import base_fingerprint


def tell_of_sibling(patcher: ModelPatcher, tuned: TunedWeights, node_id: str | None) -> str | None:
    """Warns in the node and in the log where the MODEL is not what the weights were tuned on; returns the sentence."""
    tuned_on, here = str(tuned.facts.get("base_fingerprint")), base_fingerprint(patcher)
    if tuned_on == here:
        return None
    note = (
        f"The weights were tuned on {tuned.facts.get('checkpoint') or 'a checkpoint'} (fingerprint {tuned_on[:12]}), "
        f"and {file_of(patcher) or 'this MODEL'} is another one ({here[:12]}); edits may follow the clip less closely."
    )
    logging.warning("Tune-A-Video: %s", note)
    say(note, node_id)
    return note
