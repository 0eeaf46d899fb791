"""One server for all tests of a session, with the files that they need."""

import os
from pathlib import Path

import pytest

from tests.find_comfyui import find_comfyui
from tests.host import assets
from tests.host.client import Client
from tests.host.server import Server
from tests.host.workflows import REDUCED_WEIGHTS, ending_in, small, workflow


def missing() -> str | None:
    """Why there is no ComfyUI to run these tests on; nothing where there is one."""
    if not (comfyui := find_comfyui()):
        return "no ComfyUI found; looked at $COMFYUI_PATH, above this pack and in ~/comfy/ComfyUI"
    try:
        import aiohttp  # noqa: F401
        import torchsde  # noqa: F401
    except ImportError as error:
        return f"what {comfyui} needs is not installed here ({error}); `make comfyui` installs it"
    return None


def pytest_collection_modifyitems(items):
    if reason := missing():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def comfyui() -> Path:
    return find_comfyui()


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A models folder, one for all workers of a run; $TAV_TEST_MODELS names one to keep between runs."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = Path(os.environ.get("TAV_TEST_MODELS") or shared / "models")
    assets.write_models(folder)
    return folder


@pytest.fixture(scope="session")
def new_server(comfyui, models, tmp_path_factory):
    """Makes servers, each with a folder of its own and the models linked into it."""

    def make() -> Server:
        server = Server(comfyui, tmp_path_factory.mktemp("comfyui"))
        for file in (file for file in models.rglob("*") if file.is_file()):
            (server.base / "models" / file.relative_to(models)).symlink_to(file)
        assets.write_clips(server.base / "input")
        return server

    return make


@pytest.fixture(scope="session")
def server(new_server):
    with new_server() as server:
        yield server


@pytest.fixture(scope="session")
def tuned(server) -> str:
    """Tunes the weights that the workflows load, and gives their name; those of the reduced layout are random."""
    folder = server.base / "models" / "tune_a_video"
    folder.mkdir(exist_ok=True)
    assets.write_tuned_weights(folder / REDUCED_WEIGHTS)
    run = Client(server).run(ending_in(small("tune-and-edit"), "save_weights"))
    assert run.status == "success", run.message
    return workflow("edit-with-saved-weights")["weights"]["inputs"]["tuned_weights_name"]


@pytest.fixture
def client(server):
    """A client of the session's server, which must be alive when the test ends."""
    yield Client(server)
    assert server.alive(), f"The server is gone. Its log ends:\n{server.log[-6000:]}"
