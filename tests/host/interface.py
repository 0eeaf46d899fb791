"""What people's saved workflows depend on; as a script, stores it anew: python -m tests.host.interface"""

import json
import tempfile
from pathlib import Path

from tests.find_comfyui import find_comfyui
from tests.host.client import Client
from tests.host.server import Server

FILE = Path(__file__).parent / "object_info.json"
# Options that are names of files differ from machine to machine.
FILES = {("LoadVideoFrames", "video"), ("LoadTunedWeights", "tuned_weights_name")}
STORED = json.loads(FILE.read_text())
GUARDED = ("default", "min", "max", "step", "options", "advanced", "video_upload", "control_after_generate")


def nodes_of(client: Client) -> dict:
    """This pack's nodes in /object_info."""
    info_by_name = client.get("/object_info")
    return {name: info for name, info in info_by_name.items() if info["python_module"] == "custom_nodes.tune-a-video"}


def interface(name: str, info: dict) -> dict:
    """What saved workflows depend on, of one node's /object_info."""
    inputs = {
        kind: {
            socket: [type_ if isinstance(type_, str) else "COMBO", guarded(name, socket, options)]
            for socket, (type_, options) in info["input"].get(kind, {}).items()
        }
        for kind in ("required", "optional")
    }
    outputs = [list(pair) for pair in zip(info["output_name"], info["output"], strict=True)]
    return {"category": info["category"], "inputs": inputs, "outputs": outputs, "output_node": info["output_node"]}


def inputs_of(info: dict) -> list[list]:
    """Type and options of each socket and setting."""
    return [socket for kind in ("required", "optional") for socket in info["input"].get(kind, {}).values()]


def guarded(name: str, socket: str, options: dict) -> dict:
    kept = {key: value for key, value in options.items() if key in GUARDED}
    return {key: value for key, value in kept.items() if key != "options" or (name, socket) not in FILES}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as base, Server(find_comfyui(), Path(base)) as server:
        nodes = {name: interface(name, info) for name, info in nodes_of(Client(server)).items()}
    FILE.write_text(json.dumps(nodes, indent=2) + "\n")
