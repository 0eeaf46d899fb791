import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; networks this small only wait for each other

import pytest

from tests.find_comfyui import find_comfyui


def pytest_report_header() -> str:
    comfyui = find_comfyui()
    return f"ComfyUI: {comfyui or 'none found; looked at $COMFYUI_PATH, above this pack and in ~/comfy/ComfyUI'}"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Everything here runs offline: a test that reaches for the hub must fail, not wait."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
