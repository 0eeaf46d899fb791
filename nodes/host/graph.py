"""Reads prompts, files and choices of frames from the graph, for the metadata of tuned weights.

Nodes only receive the tensors. A graph is in API format, {id: {"class_type": node, "inputs": {name: value or
[id, output]}}}, as in a hidden `prompt` input.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import PureWindowsPath

WORDS = ("text", "value", "string")  # inputs that hold a prompt, in CLIP Text Encode and core's primitives
FILES = ("image", "video", "shows")  # inputs that name a loader's file
SOURCES = ("images", "image", "pixels", "clip", "video")  # inputs that images arrive through
ENCODERS = ("VAEEncode", "VAEEncodeTiled")
CHOICES = {"start": int, "stride": int, "fit": str}

Graph = Mapping[str, dict] | None


def prompt_behind(graph: Graph, node_id: str | None, socket: str = "positive") -> str:
    """The text of the nearest node upstream of a socket that has one; "" if none does."""
    nodes = _upstream(graph, _inputs(graph, node_id), socket, ("conditioning", "positive", *WORDS))
    return next(_texts(nodes, WORDS), "")


def loras_behind(graph: Graph, node_id: str | None, socket: str = "model") -> list[dict]:
    """The LoRAs upstream of a MODEL socket in the order they are applied, as `TunedFacts` stores them.

    strength: None if it is linked.
    """
    loras = []
    for inputs in _upstream(graph, _inputs(graph, node_id), socket, ("model", "model1")):
        strength = inputs.get("strength_model", inputs.get("strength"))
        strength = strength if isinstance(strength, (int, float)) else None
        if strength != 0:
            files = [value for name, value in inputs.items() if "lora" in str(name) and _is_file(value)]
            loras += [{"file": _name(file), "strength": strength} for file in files]
    return loras[::-1]


def controls_behind(graph: Graph, node_id: str | None, socket: str = "positive") -> list[tuple[str | None, str | None]]:
    """(file of the network, source of the images) of each control upstream of a CONDITIONING socket, nearest first."""
    controls = []
    for inputs in _upstream(graph, _inputs(graph, node_id), socket, ("conditioning", "positive")):
        if "control_net" in inputs:
            loaders = _upstream(graph, inputs, "control_net", ("control_net",))
            network = next((value for each in loaders for value in each.values() if _is_file(value)), None)
            images = next(_texts(_upstream(graph, inputs, "image", SOURCES), FILES), None)
            controls.append((network and _name(network), images and _name(images)))
    return controls


def clip_behind(graph: Graph, node_id: str | None, socket: str = "latents") -> dict:
    """Which frames of which file arrive at a LATENT socket, as `TunedFacts` stores them.

    {} unless they come from Load Video Frames through VAE Encode alone, for other nodes may change which they are.
    """
    encoder = _linked(graph, _inputs(graph, node_id).get(socket), ENCODERS)
    loader = _linked(graph, encoder.get("pixels"), ("LoadVideoFrames",))
    opened = _linked(graph, loader["clip"], ("LoadVideo",)) if "clip" in loader else loader
    file, by_time = opened.get("file", opened.get("video")), loader.get("by_time")
    chosen = {name: loader.get(name) for name in CHOICES}
    if not (file and isinstance(file, str) and all(isinstance(chosen[name], kind) for name, kind in CHOICES.items())):
        return {}
    if chosen["stride"]:
        by_time = False
    elif by_time is None:  # by time if the clip's frame rate varies, as it is where nothing is stored
        del chosen["stride"]
    return {"clip": _name(file), "by_time": by_time, **chosen} if isinstance(by_time, bool | None) else {}


def _linked(graph: Graph, link: object, kinds: Collection[str]) -> dict:
    """The inputs of the node whose first output a link comes from; {} unless it is one of these kinds."""
    node = (graph or {}).get(str(link[0]), {}) if isinstance(link, list) and link[1:] == [0] else {}
    return (node.get("inputs") or {}) if node.get("class_type") in kinds else {}


def _upstream(graph: Graph, inputs: dict, socket: str, sockets: tuple[str, ...]) -> Iterator[dict]:
    """The inputs of the nodes upstream of a socket, nearest first, following the first of `sockets` that is linked."""
    for _ in graph or ():
        if not isinstance(link := inputs.get(socket), list) or not link:
            return
        inputs = _inputs(graph, str(link[0]))
        yield inputs
        socket = next((name for name in sockets if isinstance(inputs.get(name), list)), "")


def _inputs(graph: Graph, node_id: str | None) -> dict:
    return (graph or {}).get(node_id, {}).get("inputs") or {}


def _texts(nodes: Iterator[dict], names: tuple[str, ...]) -> Iterator[str]:
    return (inputs[name] for inputs in nodes for name in names if inputs.get(name) and isinstance(inputs[name], str))


def _is_file(value: object) -> bool:
    return isinstance(value, str) and value.lower().endswith((".safetensors", ".pt", ".pth", ".ckpt", ".bin"))


def _name(path: str) -> str:
    """Without its folder, and without the host's note of where that is, as in "a.mp4 [output]"."""
    return PureWindowsPath(re.sub(r" \[(input|output|temp)\]$", "", path)).name  # it splits at both kinds of slash
