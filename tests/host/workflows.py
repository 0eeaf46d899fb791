"""The pack's workflows in API format, as they are and made small enough for a CPU."""

import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "workflows" / "api"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))

FRAMES, SIZE = 3, 64
# Per kind of node, the settings of a test. The stock scheduler meets the inverted latent's last step at 10 steps, not
# at fewer.
SMALL = {
    "LoadVideoFrames": {"frames": FRAMES, "width": SIZE, "height": SIZE},
    "EmptyLatentImage": {"batch_size": FRAMES, "width": SIZE, "height": SIZE},
    "OneShotTune": {"steps": 2},
    "DDIMInvert": {"steps": 2},
    "TAVSample": {"steps": 2},
    "KSamplerAdvanced": {"steps": 10},
}


def workflow(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


def small(name: str, changes: dict | None = None) -> dict:
    """A workflow on few small frames in few steps; `changes` are further inputs per node."""
    prompt = workflow(name)
    for node in prompt.values():
        node["inputs"] |= SMALL.get(node["class_type"], {})
    if any(node["class_type"] == "KSamplerAdvanced" for node in prompt.values()):
        prompt["invert"]["inputs"]["steps"] = 10
    return changed(prompt, changes or {})


def changed(prompt: dict, changes: dict) -> dict:
    """A copy with other inputs: {node: {input: value}}; a value of None takes the input away."""
    prompt = json.loads(json.dumps(prompt))
    for node, inputs in changes.items():
        prompt[node]["inputs"] |= inputs
        prompt[node]["inputs"] = {key: value for key, value in prompt[node]["inputs"].items() if value is not None}
    return prompt


def without_outputs(prompt: dict) -> dict:
    """The same without the nodes that write files, to end in another output."""
    return {name: node for name, node in prompt.items() if node["class_type"] not in ("SaveVideo", "LossGraphNode")}
