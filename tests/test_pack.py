"""What the ecosystem reads of the pack beside its code: metadata, requirements, workflows, README."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

from tests.find_comfyui import find_comfyui

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
NAMES = {
    language: json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    for language in ("en", "zh")
}
OURS = set(NAMES["en"])


def requirements(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def name_in(requirement: str) -> str:
    return re.match(r"[\w-]+", requirement)[0].lower()


def test_requirements_are_floors_of_the_project():
    assert set(requirements(ROOT / "requirements.txt")) <= set(PROJECT["project"]["dependencies"])
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", line) for line in requirements(ROOT / "requirements.txt"))


@pytest.mark.skipif(find_comfyui() is None, reason="no ComfyUI found")
def test_comfyui_brings_what_requirements_leave_out():
    brought = {name_in(line) for line in requirements(find_comfyui() / "requirements.txt")}
    brought |= {name_in(line) for line in metadata.requires("torch")}
    ours = {name_in(line) for line in requirements(ROOT / "requirements.txt")}
    assert ours.isdisjoint(brought)
    assert {name_in(line) for line in PROJECT["project"]["dependencies"]} <= ours | brought


def test_the_registry_gets_what_it_asks_for():
    told = PROJECT["tool"]["comfy"]
    assert {"PublisherId", "DisplayName", "Icon", "requires-comfyui"} <= set(told)
    for picture in (told["Icon"], told["Banner"]):
        assert picture.startswith("https://")
        assert (ROOT / picture.partition("/main/")[2]).is_file()
    width, height = Image.open(ROOT / told["Banner"].partition("/main/")[2]).size
    assert width / height == pytest.approx(21 / 9)
    kinds = [name.partition(" :: ")[0] for name in PROJECT["project"]["classifiers"]]
    assert {"Operating System", "Environment"} <= set(kinds)
    assert PROJECT["project"]["urls"]["Repository"].startswith("https://")


def test_the_registrys_own_check_finds_nothing(tmp_path):
    """`comfy node validate`, on a copy of what is tracked, for it also looks at files that lie about."""
    comfy = shutil.which("comfy", path=str(Path(sys.executable).parent))
    if not comfy:
        pytest.skip("no comfy-cli beside this Python; `make test` installs it")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and (name.endswith((".py", ".toml", ".txt")) or "/" not in name):
            (tmp_path / "pack" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "pack" / name)
    if not listed:
        pytest.skip("not a git checkout")
    environment = os.environ | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "DO_NOT_TRACK": "1"}
    environment["PATH"] = f"{Path(comfy).parent}{os.pathsep}{environment['PATH']}"  # it calls the ruff beside it
    command = [comfy, "--skip-prompt", "node", "validate"]
    done = subprocess.run(
        command, cwd=tmp_path / "pack", env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    said = done.stdout + done.stderr
    assert "checks passed" in said, said  # its exit status is 0 either way


def test_what_users_install_holds_all_that_runs_and_nothing_that_only_tests():
    def listed(*options: str) -> set[str]:
        done = subprocess.run(["git", "ls-files", *options], cwd=ROOT, capture_output=True, text=True, check=False)
        return set(done.stdout.splitlines())

    if not (tracked := listed()):
        pytest.skip("not a git checkout")
    kept = tracked - listed("--cached", "--ignored", "--exclude-from=.comfyignore")
    folders = {Path(path).parts[0] for path in kept}
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"} <= folders
    assert {"nodes", "tav_core", "web", "locales", "workflows", "subgraphs"} <= folders
    assert folders.isdisjoint({"tests", "benchmarks", ".ci"})
    assert "docs/icon.svg" in kept
    assert not [path for path in kept if path.startswith(("workflows/layout/", "subgraphs/layout/"))]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_says_in_both_languages_what_to_change_and_where_its_models_come_from(path):
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    english, chinese = (node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote")
    assert "**What to change**, the green nodes:" in english
    assert re.search("[\u4e00-\u9fff]", chinese)
    green = [node for node in nodes if node.get("bgcolor") == "#353"]
    titles = [re.match(r"(.+) · (.+) \(", node["title"]).groups() for node in green if "title" in node]
    untitled = [node["type"] for node in green if "title" not in node]
    titles += [
        (NAMES["en"][kind]["display_name"], NAMES["zh"][kind]["display_name"]) for kind in untitled if kind in OURS
    ]
    assert [title for title, _ in titles if f"*{title}*" not in english] == []
    assert [title for _, title in titles if f"*{title}*" not in chinese] == []
    for node in nodes:
        models = node["properties"].get("models", [])
        assert all(f"[{model['name']}]({model['url']})" in note for model in models for note in (english, chinese))
        if node["type"] not in ("MarkdownNote", "LoadTunedWeights"):
            named = [value for value in node.get("widgets_values", []) if str(value).endswith(".safetensors")]
            assert [model["name"] for model in models] == named


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_groups_have_titles_in_both_languages(path):
    titles = [group["title"] for group in json.loads(path.read_text(encoding="utf-8"))["groups"]]
    assert [
        title for title in titles if not re.fullmatch("\\d  [A-Za-z, ]+ · [\u4e00-\u9fff\u3001 A-Za-z]+", title)
    ] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_names_the_pack_of_each_node(path):
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        if node["type"] != "MarkdownNote":
            pack = PROJECT["project"]["name"] if node["type"] in OURS else "comfy-core"
            assert node["properties"]["cnr_id"] == pack
            assert node["properties"]["Node name for S&R"] == node["type"]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_points_at_files_that_are_there(path):
    text = path.read_text(encoding="utf-8")
    assert [link for link in re.findall(r"\]\((?!https?:)([^)#]+)", text) if not (path.parent / link).exists()] == []
    named = [name for name in re.findall(r"workflows/[\w./-]+\.json", text) if "NAME" not in name]
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_workflow_is_documented():
    text = (ROOT / "docs" / "workflows.md").read_text(encoding="utf-8")
    assert [path.stem for path in WORKFLOWS if f"`{path.stem}`" not in text] == []
    assert f"There are {len(WORKFLOWS)}, each" in (ROOT / "README.md").read_text(encoding="utf-8")
