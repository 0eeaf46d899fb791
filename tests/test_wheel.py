"""A wheel built from the tree, as pip installs it: it lacks no module and no asset, and runs from there."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = ("tav_core", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
# The command with fewer steps than its own.
DEMO = """
import runpy, sys
from functools import partial
import tav_core
assert tav_core.__file__.startswith(sys.argv[1]), tav_core.__file__
sys.argv = ["tav", "demo", "--help"]
try:
    runpy.run_module("tav_core.cli", run_name="__main__")
except SystemExit as ended:
    assert not ended.code
from tav_core.cli import demo, main
from tav_core.demo.settings import Settings
quick = Settings(tuning_steps=1, steps=1, inversion_steps=1, frames=2)
demo.run_demo = partial(demo.run_demo, settings=quick)
main(["demo", "-o", "out", "-p", "a red box is moving on the snow"])
"""


@pytest.fixture(scope="module")
def files() -> list[str]:
    """What is in the tree and not ignored; not what builds and runs leave there."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *NEEDED]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(files, tmp_path_factory) -> Path:
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    done = subprocess.run([sys.executable, "-c", BUILD, built], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = built.glob("*.whl")
    return path


def test_a_wheel_holds_every_module_and_asset_and_nothing_else(wheel, files):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "tav = tav_core.cli:main" in archive.read(entry_points).decode()
    assert packed == {name for name in files if name.startswith("tav_core/")}


def test_the_demo_runs_from_an_installed_wheel(wheel, tmp_path):
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", DEMO, installed]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "tav demo -p" in done.stdout
    assert {"sheet.png", "manifest.json", "a-red-box-is-moving-on-the-snow.mp4"} <= set(os.listdir(elsewhere / "out"))
