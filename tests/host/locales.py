"""The nodes' texts in each language; as a script, stores the English ones anew from the schemas:
python -m tests.host.locales"""

import json
import tempfile
from pathlib import Path

from tests.find_comfyui import find_comfyui
from tests.host.client import Client
from tests.host.interface import nodes_of
from tests.host.server import Server

FOLDER = Path(__file__).parents[2] / "locales"
LANGUAGES = ("en", "zh")


def stored(language: str, file: str = "nodeDefs") -> dict:
    return json.loads((FOLDER / language / f"{file}.json").read_text())


def texts(info: dict) -> dict:
    """All names and tooltips of one node's /object_info, in the front end's layout."""
    inputs = {name: socket for kind in ("required", "optional") for name, socket in info["input"].get(kind, {}).items()}
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {name: {"name": name, "tooltip": options["tooltip"]} for name, (_, options) in inputs.items()},
        "outputs": {str(i): {"name": name, "tooltip": tooltip} for i, (name, tooltip) in enumerate(outputs)},
    }


def leaves(texts: dict | str, path: tuple = ()) -> dict[tuple, str]:
    """Each text with its path through the nested keys."""
    if isinstance(texts, str):
        return {path: texts}
    return {place: text for key, value in texts.items() for place, text in leaves(value, (*path, key)).items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as base, Server(find_comfyui(), Path(base)) as server:
        english = {name: texts(info) for name, info in sorted(nodes_of(Client(server)).items())}
    (FOLDER / "en" / "nodeDefs.json").write_text(json.dumps(english, indent=2, ensure_ascii=False) + "\n")
