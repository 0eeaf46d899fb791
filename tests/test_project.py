"""What holds for the project as a whole."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tav_core

ROOT = Path(__file__).parents[1]
HOST = {"app", "comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "nodes", "server"}


def test_the_version_is_the_same_for_machines_and_for_python():
    assert (
        re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1] == tav_core.__version__
    )


def imported(source: str, package: tuple[str, ...]) -> Iterator[str]:
    """The modules that a module of this package imports, also within functions and by name; "" is above its top."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            start = package[: len(package) - node.level + 1]
            yield ".".join([*start, *([node.module] if node.module else [])]) if start else ""
        elif isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    import comfy.utils, os", ["comfy.utils", "os"]),
        ("try:\n    from comfy import utils\nexcept ImportError: pass", ["comfy"]),
        ("from ...nodes.host import lora", [""]),
        ("from ..tune import tune", ["tav_core.tune"]),
        ("from . import lora", ["tav_core.checkpoints"]),
        ("importlib.import_module('folder_paths')", ["folder_paths"]),
    ],
)
def test_every_kind_of_import_is_seen(source, found):
    assert list(imported(source, ("tav_core", "checkpoints"))) == found


def test_the_core_never_imports_its_host():
    for path in sorted((ROOT / "tav_core").rglob("*.py")):
        package = path.relative_to(ROOT).parent.parts
        roots = {name.partition(".")[0] for name in imported(path.read_text(encoding="utf-8"), package)}
        assert not roots & (HOST | {""}), path


def test_the_pack_imports_the_core_by_its_own_path():
    """In ComfyUI it is not installed, so that the name `tav_core` finds nothing, or another version."""
    for path in sorted((ROOT / "nodes").rglob("*.py")):
        package = "pack", *path.relative_to(ROOT).parent.parts
        roots = {name.partition(".")[0] for name in imported(path.read_text(encoding="utf-8"), package)}
        assert not roots & {"tav_core", ""}, path


LIGHT = """
import sys
import tav_core

heavy = {"torch", "diffusers", "transformers", "numpy", "cv2", "av"} & set(sys.modules)
assert not heavy, heavy

sys.modules.update(av=None, cv2=None, typer=None, peft=None, comfy=None)
from types import FunctionType
from tav_core import tune, inflate
import tav_core.tune, tav_core.inflate
assert tav_core.tune is tune and tav_core.inflate is inflate
assert type(tune) is type(inflate) is FunctionType

# the modules first, in a package that nobody has asked for the functions yet
for name in [name for name in sys.modules if name.partition(".")[0] == "tav_core"]:
    del sys.modules[name]
import tav_core.inflate, tav_core.tune
from tav_core.tune import TuneConfig
import tav_core.tune as by_name
assert type(tav_core.tune) is type(tav_core.inflate) is FunctionType
assert by_name is tav_core.tune
assert TuneConfig is tav_core.TuneConfig

del sys.modules["av"], sys.modules["cv2"]
for name in tav_core.__all__:
    assert getattr(tav_core, name).__class__.__name__ != "module", name
assert set(tav_core.__all__) <= set(dir(tav_core))
assert not hasattr(tav_core, "toon")
"""


def test_importing_the_core_is_light_and_silent_and_its_names_resolve_on_first_use():
    """Without PyAV and OpenCV for what needs no video, and without any optional package; one process for all."""
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


AT_ONCE = """
import threading
import tav_core

failed = []
def resolve(name):
    try:
        getattr(tav_core, name)
    except Exception as error:
        failed.append((name, error))

names = "tune", "load_checkpoint", "invert", "TuneConfig"
threads = [threading.Thread(target=resolve, args=(name,)) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failed, failed
"""


def test_threads_may_ask_for_names_at_the_same_time():
    """diffusers' own lazy imports fail when two threads import it at once."""
    done = subprocess.run([sys.executable, "-c", AT_ONCE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
