import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; networks this small only wait for each other

import pytest


def find_comfyui() -> Path | None:
    """The ComfyUI to test against: $COMFYUI_PATH, the one this pack is installed in, or comfy-cli's place."""
    pack = Path(__file__).parents[1]
    places = [os.environ.get("COMFYUI_PATH"), *pack.parents[1:2], Path.home() / "comfy" / "ComfyUI"]
    return next((Path(p) for p in places if p and (Path(p) / "comfy" / "sd.py").is_file()), None)


def pytest_report_header() -> str:
    comfyui = find_comfyui()
    return f"ComfyUI: {comfyui or 'none found; looked at $COMFYUI_PATH, above this pack and in ~/comfy/ComfyUI'}"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Everything here runs offline: a test that reaches for the hub must fail, not wait."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
