"""What others' tools say of the pack, where they are installed: comfy-lint and comfy-import-guard (extra `test`)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host.client import Client
from tests.host.server import PACK
from tests.host.workflows import NAMES, workflow


def tool(name: str) -> str:
    """A program beside this Python, or on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which(name, path=path) or pytest.skip(f"{name} is not installed; `make test` installs it")


def said_by(*command) -> dict:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.startswith("{"), done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def host_with_the_pack(comfyui, tmp_path) -> Path:
    """An installation that holds this pack alone."""
    folder = tmp_path / "host"
    (folder / "custom_nodes").mkdir(parents=True)
    (folder / "custom_nodes" / "tune-a-video").symlink_to(PACK, target_is_directory=True)
    (folder / "main.py").symlink_to(comfyui / "main.py")
    return folder


def test_comfy_lint_finds_only_what_it_does_not_know(server, tuned, tmp_path):
    """A file need not be chosen where a clip is connected; Save Video has settings within settings; lists grow."""
    schema = tmp_path / "object_info.json"
    schema.write_bytes(Client(server).request("/object_info"))
    files = [PACK / "workflows" / "api" / f"{name}.json" for name in NAMES]
    report = said_by(tool("comfy-lint"), "--schema-cache", schema, "--json", *files)
    assert len(report["files"]) == len(NAMES)
    found = {
        (Path(file["path"]).stem, said["node_id"], said["field"])
        for file in report["files"]
        for said in file["diagnostics"]
    }
    unknown = set()
    for name in NAMES:
        prompt = workflow(name)
        for key, node in prompt.items():
            kind, links = node["class_type"], {k: v for k, v in node["inputs"].items() if isinstance(v, list)}
            fields = {field for field, (source, _) in links.items() if prompt[source]["class_type"] == "CreateList"}
            fields |= {"video"} if kind == "LoadVideoFrames" and "clip" in links else set()
            fields |= {"format.codec"} if kind == "SaveVideo" else set()
            fields |= {"inputs", *links} if kind == "CreateList" else set()
            unknown |= {(name, key, field) for field in fields}
    assert found - unknown == set()


def test_comfy_import_guard_finds_every_name_of_the_host(comfyui, host_with_the_pack, tmp_path):
    """Each name of the host that the pack imports or replaces, and how it calls it, in the host that is here."""
    guard = tool("comfy-import-guard")
    if not (comfyui / ".git").exists():
        pytest.skip("the ComfyUI here is no git checkout")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "ComfyUI").symlink_to(comfyui, target_is_directory=True)
    options = ["--offline", "--quiet", "--json", "--cache-dir", tmp_path / "cache"]
    report = said_by(guard, *options, "check", "--comfy-dir", host_with_the_pack, "--no-update", "--target", "HEAD")
    (pack,) = report["packs"]
    assert pack["references"] > 50
    assert (pack["verdict"], pack["breaking"], pack["signature_drift"]) == ("SAFE", [], [])
