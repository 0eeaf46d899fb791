"""What the host puts in the place of nodes that are gone, when it opens a workflow that has them."""

from comfy_api.latest import ComfyAPI, io

# comfy_vid2vid, an earlier port, no longer starts. This is its one node that one of ours replaces;
# docs/comfy-vid2vid.md has the others.
OLD_TUNING = {"model": "model", "latents": "samples", "positive": "context", "steps": "steps"}  # our inputs, its inputs
DEFAULTS = {
    "learning_rate": 3e-5,
    "seed": 0,
    "mixed_precision": "auto",
    "gradient_checkpointing": "auto",
    "validate_every": 100,
}


async def register_replacements() -> None:
    if not hasattr(io, "NodeReplace"):  # in older hosts
        return
    await ComfyAPI().node_replacement.register(
        io.NodeReplace(
            new_node_id="OneShotTune",
            old_node_id="TrainUnetSequence",
            old_widget_ids=["steps"],
            input_mapping=[
                *({"new_id": ours, "old_id": its} for ours, its in OLD_TUNING.items()),
                *({"new_id": name, "set_value": value} for name, value in DEFAULTS.items()),
            ],
            output_mapping=[{"new_idx": 0, "old_idx": 0}],
        )
    )
