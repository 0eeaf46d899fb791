"""Where tuned weights and runs go, and where they are looked for."""

import pytest

from tests.host.inprocess import core, pack

KEY = "tune_a_video"


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A folder that the user's extra_model_paths.yaml names, read before this pack is."""
    paths, folder = core("folder_paths"), tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setattr(paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(paths, "folder_names_and_paths", {})
    monkeypatch.setattr(paths, "filename_list_cache", {})
    paths.add_model_folder_path(KEY, str(folder))
    return folder


def test_a_folder_of_the_yaml_is_read_and_not_written(shared, tmp_path):
    folders, own = pack("nodes.weights_folder"), tmp_path / "models" / KEY
    (shared / "theirs.safetensors").touch()
    folders.register_folder()
    assert folders.names_of_files() == ["theirs.safetensors"]
    assert folders.file_named("theirs.safetensors") == shared / "theirs.safetensors"
    assert folders.next_file("cats/jump") == own / "cats" / "jump_00001.safetensors"
    assert folders.name_of(folders.next_file("cats/jump")) == "cats/jump_00001.safetensors"
    assert folders.runs_folder() == own / ".runs"
