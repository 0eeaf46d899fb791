"""The oldest ComfyUI that pyproject.toml names, where $COMFYUI_FLOOR_PATH says where one is.

Its front end, templates and docs are older than those of today's: `pip install --no-deps --target DIR` what its
requirements.txt pins of them, and set $COMFYUI_FLOOR_PYTHONPATH to DIR.
"""

import os
from pathlib import Path

import pytest

from tests.host import assets
from tests.host.client import Client
from tests.host.interface import STORED, nodes_of
from tests.host.server import Server
from tests.host.workflows import new, small
from tests.test_pack import PROJECT

FLOOR = os.environ.get("COMFYUI_FLOOR_PATH")


@pytest.fixture(scope="module")
def client(models, tmp_path_factory):
    if not FLOOR:
        pytest.skip("$COMFYUI_FLOOR_PATH names no ComfyUI of the oldest version that is supported")
    server = Server(Path(FLOOR), tmp_path_factory.mktemp("floor"))
    server.environment["PYTHONPATH"] = os.environ.get("COMFYUI_FLOOR_PYTHONPATH", "")
    for file in (file for file in models.rglob("*") if file.is_file()):
        (server.base / "models" / file.relative_to(models)).symlink_to(file)
    assets.write_clips(server.base / "input")
    with server:
        yield Client(server)


def test_it_is_the_version_that_the_project_names(client):
    version = client.get("/system_stats")["system"]["comfyui_version"]
    assert PROJECT["tool"]["comfy"]["requires-comfyui"] == f">={version}"


def test_it_has_all_nodes(client):
    assert set(nodes_of(client)) == set(STORED)


def test_it_tunes_inverts_and_edits(client):
    run = client.run(small("try-with-the-miniature"))
    assert run.status == "success", run.message
    assert run.outputs["save"]
    assert client.run(small("try-with-the-miniature", {"edit": {"text": "a blue ball"}})).status == "success"


@pytest.mark.parametrize(
    "name", ["tune-with-lora", "sibling-checkpoint", "v-prediction", "two-controls", "per-frame-masks"]
)
def test_it_takes_loras_siblings_control_and_masks(client, name):
    run = client.run(small(name))
    assert run.status == "success", run.message
    assert run.outputs["save"]


def test_its_own_samplers_keep_a_clip_outside_of_a_mask_on_the_latents(client):
    """This ComfyUI gives wrappers such a mask in its own size."""
    sampler = {"add_noise": "disable", "noise_seed": 0, "steps": 10, "cfg": 3.0, "sampler_name": "euler"}
    sampler |= {
        "scheduler": "ddim_uniform",
        "start_at_step": 0,
        "end_at_step": 99,
        "return_with_leftover_noise": "disable",
    }
    links = {"model": ["keep", 0], "positive": ["edit", 0], "negative": ["nothing", 0], "latent_image": ["masked", 0]}
    where = {"model": ["tune", 0], "latent_image": ["invert", 0], "source": ["caption", 0], "clip": ["checkpoint", 1]}
    changes = {
        "invert": {"steps": 10},
        "mask": new("MaskFromWords", **where, words="ball", threshold=0.3),
        "masked": new("SetLatentNoiseMask", samples=["invert", 0], mask=["mask", 0]),
        "sample": new("KSamplerAdvanced", **sampler, **links),
    }
    for mask in (["mask", 0], None):
        run = client.run(small("try-keeping-with-the-miniature", changes | {"keep": {"mask": mask}}))
        assert run.status == "success", run.message


def test_it_refuses_what_does_not_fit(client):
    run = client.run(small("pose-control", {"poses": {"frames": 2}}))
    assert "Got 2 ControlNet images for 3 frames" in run.message
