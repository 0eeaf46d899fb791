"""Refuses to save a tuned MODEL as a checkpoint: no checkpoint has a place for temporal attention."""

from comfy.model_patcher import ModelPatcher

from ...tav_core.errors import TavError

SAVE = "state_dict_for_saving"
"""The method of the host's models that gives the tensors of a checkpoint."""


def set_savable(patcher: ModelPatcher, savable: bool) -> None:
    """Lets Save Checkpoint, Save Model and their like save this MODEL, or not; in place."""
    # safe: object patches are meant for nodes, clones copy them, and the host applies them before it saves
    patcher.object_patches.pop(SAVE, None)
    if not savable:
        patcher.add_object_patch(SAVE, _refuse)


def _refuse(*_args, **_kwargs) -> None:
    raise TavError(
        "A checkpoint cannot hold the tuning of this MODEL; save it with Save Tuned Weights, and connect the MODEL "
        "from before tuning here."
    )
