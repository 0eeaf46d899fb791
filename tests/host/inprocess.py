"""ComfyUI and this pack, as ComfyUI loads it, inside the test's own process."""

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from tests.find_comfyui import find_comfyui

PACK = "tune_a_video"


@cache
def start() -> None:
    """Makes `comfy` importable on the CPU, and this repository the package that ComfyUI makes of it."""
    comfyui = str(find_comfyui())
    sys.path.insert(0, comfyui)  # before this repository, for `import nodes` must find the host's
    try:
        options = importlib.import_module("comfy.options")
        options.args_parsing = False
        importlib.import_module("comfy.cli_args").args.cpu = True
        for name in (
            "nodes",
            "latent_preview",
            "comfy.sample",
            "comfy.samplers",
            "comfy_api.latest",
            "comfy.controlnet",
        ):
            importlib.import_module(name)
    finally:
        sys.path.remove(comfyui)
        sys.path.append(comfyui)  # for what the host imports later; `tests` stays ours
    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location(PACK, root / "__init__.py", submodule_search_locations=[str(root)])
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])


def pack(name: str) -> ModuleType:
    """A module of this pack, such as "nodes.host.inflate"."""
    start()
    return importlib.import_module(f"{PACK}.{name}")


def core(name: str) -> ModuleType:
    """A module of ComfyUI."""
    start()
    return importlib.import_module(name)
