"""What holds for the project as a whole."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tav_core

ROOT = Path(__file__).parents[1]


def test_the_version_is_told_once_to_machines_and_once_to_python():
    assert (
        re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1] == tav_core.__version__
    )


def test_all_public_names_are_there():
    assert all(hasattr(tav_core, name) for name in tav_core.__all__)


@pytest.mark.parametrize("path", sorted((ROOT / "tav_core").rglob("*.py")), ids=lambda path: path.name)
def test_the_core_never_imports_its_host(path):
    assert not re.search(r"^\s*(from|import)\s+(comfy|folder_paths|nodes|\.\.+nodes)\b", path.read_text(), re.MULTILINE)


def test_importing_the_core_prints_nothing_and_needs_no_optional_package():
    program = "import sys; sys.modules.update(typer=None, peft=None, comfy=None); import tav_core"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
