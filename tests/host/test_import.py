"""The pack is light to import, for ComfyUI imports it at every start, whether or not a node of ours is used."""

import json
import subprocess
import sys

from tests.host.server import PACK

SCRIPT = """
import asyncio, importlib.util, json, sys
comfyui, pack = sys.argv[1:]
sys.path.insert(0, comfyui)
import comfy.options
comfy.options.args_parsing = False
import comfy.cli_args
comfy.cli_args.args.cpu = True
import nodes, comfy_api.latest

before = set(sys.modules)
spec = importlib.util.spec_from_file_location("tune_a_video", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["tune_a_video"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

async def schemas():
    extension = await module.comfy_entrypoint()
    nodes = {node.GET_SCHEMA().node_id: node for node in await extension.get_node_list()}
    # the host validates in the server's own thread, which must not wait for imports
    assert nodes["DDIMInvert"].validate_inputs(steps=50) is nodes["TAVSample"].validate_inputs(steps=20) is True
    assert "501" in nodes["TAVSample"].validate_inputs(steps=501)
    assert nodes["LoadVideoFrames"].validate_inputs("clip.mp4") is not True
    assert nodes["SaveTunedWeights"].validate_inputs("tuned") is True
    return list(nodes)

named = asyncio.run(schemas())
print(json.dumps([named, sorted(set(sys.modules) - before)]))
"""


def test_importing_the_pack_and_its_schemas_loads_no_package_that_comfyui_does_not(comfyui):
    """So neither diffusers, nor transformers' models, nor PyAV or OpenCV are loaded before a node runs, and not while
    its inputs are validated either."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(comfyui), str(PACK)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    named, loaded = json.loads(run.stdout.splitlines()[-1])
    assert "OneShotTune" in named
    packages = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names
    assert packages == {"tune_a_video"}
