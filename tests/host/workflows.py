"""The pack's workflows in API format, as they are and made small enough for a CPU."""

import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "workflows" / "api"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
# Those that load LoRAs, ControlNets or other checkpoints of Stable Diffusion's layout run on a reduced one, the others
# on the miniature.
REDUCED = {
    "depth-control",
    "personalised-lora",
    "pose-control",
    "sibling-checkpoint",
    "tune-with-lora",
    "two-controls",
    "v-prediction",
}

REDUCED_WEIGHTS = "reduced.safetensors"
FRAMES, SIZE = 3, 64
# Per kind of node, the settings of a test. The stock scheduler meets the inverted latent's last step at 10 steps, not
# at fewer.
SMALL = {
    "LoadVideoFrames": {"frames": FRAMES, "width": SIZE, "height": SIZE},
    "EmptyLatentImage": {"batch_size": FRAMES, "width": SIZE, "height": SIZE},
    # "auto" estimates the memory of a step first, which takes longer than these steps
    "OneShotTune": {"steps": 2, "gradient_checkpointing": "off"},
    "DDIMInvert": {"steps": 2},
    "TAVSample": {"steps": 2},
    "ExtendVideo": {"steps": 2, "frames": 2},
    "InterpolateVideo": {"steps": 2},
    "KSamplerAdvanced": {"steps": 10},
    "VideoWindows": {"length": 2, "overlap": 0},
    "RepeatImageBatch": {"amount": 2},  # with another two that follow, and of which the last is left over
}


def workflow(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


def small(name: str, changes: dict | None = None) -> dict:
    """A workflow on few small frames in few steps; `changes` are further inputs per node."""
    prompt = workflow(name)
    if name not in REDUCED:
        for key in [key for key, node in prompt.items() if node["class_type"] == "CheckpointLoaderSimple"]:
            prompt[key] = new("LoadMiniature", personalised=False)  # gives MODEL, CLIP and VAE in the same order
    elif "weights" in prompt and "tuned_weights_name" in prompt["weights"]["inputs"]:
        prompt["weights"]["inputs"]["tuned_weights_name"] = REDUCED_WEIGHTS
    for node in prompt.values():
        node["inputs"] |= SMALL.get(node["class_type"], {})
    if any(node["class_type"] == "KSamplerAdvanced" for node in prompt.values()):
        prompt["invert"]["inputs"]["steps"] = 10
    return changed(prompt, changes or {})


def changed(prompt: dict, changes: dict) -> dict:
    """A copy with other inputs, {node: {input: value}}, with other nodes, {node: new("Kind", ...)}, or less: None."""
    prompt = json.loads(json.dumps(prompt))
    for name, change in changes.items():
        if "class_type" in change:
            prompt[name] = change
        else:
            inputs = prompt[name]["inputs"] | change
            prompt[name]["inputs"] = {key: value for key, value in inputs.items() if value is not None}
    return prompt


def new(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def ending_in(prompt: dict, *names: str) -> dict:
    """The part of a workflow that these nodes need."""
    needed, found = {}, list(names)
    while found:
        name = found.pop()
        needed[name] = prompt[name]
        inputs = prompt[name]["inputs"].values()
        found += [value[0] for value in inputs if isinstance(value, list) and value[0] not in needed]
    return needed
