"""Where tuned weights and runs go, and where they are looked for."""

import shutil

import pytest

from tests.host.client import Client
from tests.host.inprocess import core, pack
from tests.host.workflows import ending_in, small

KEY = "tune_a_video"


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A folder that the user's extra_model_paths.yaml names, read before this pack is."""
    paths, folder = core("folder_paths"), tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setattr(paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(paths, "folder_names_and_paths", {})
    monkeypatch.setattr(paths, "filename_list_cache", {})
    paths.add_model_folder_path(KEY, str(folder))
    return folder


def test_a_folder_of_the_yaml_is_read_and_not_written(shared, tmp_path):
    folders, own = pack("nodes.host.weights_folder"), tmp_path / "models" / KEY
    (shared / "theirs.safetensors").touch()
    folders.register_folder()
    assert folders.names_of_files() == ["theirs.safetensors"]
    assert folders.file_named("theirs.safetensors") == shared / "theirs.safetensors"
    with folders.unused_file("cats/jump") as path:
        assert path == own / "cats" / "jump_00001.safetensors"
        assert folders.name_of(path) == "cats/jump_00001.safetensors"
    assert folders.runs_folder() == own / ".runs"


def test_where_models_cannot_be_written_to_weights_and_runs_go_to_the_output_and_are_found_there(shared, tmp_path):
    folders, output = pack("nodes.host.weights_folder"), tmp_path / "output" / KEY
    (tmp_path / "models").touch()  # no folder can be made in it; root may write to read-only ones
    folders.register_folder()
    with folders.unused_file("cats/jump") as path:
        assert path == output / "cats" / "jump_00001.safetensors"
        assert folders.name_of(path) == "cats/jump_00001.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert folders.names_of_files() == ["cats/jump_00001.safetensors"]
    assert folders.file_named("cats/jump_00001.safetensors") == path
    assert folders.runs_folder() == output / ".runs"


def test_two_servers_that_save_at_once_take_two_names(shared):
    folders = pack("nodes.host.weights_folder")
    folders.register_folder()
    with folders.unused_file("jump") as one, folders.unused_file("jump") as other:
        assert (one.name, other.name) == ("jump_00001.safetensors", "jump_00002.safetensors")
        other.parent.mkdir(parents=True, exist_ok=True)
        other.touch()
    with folders.unused_file("jump") as again:
        assert again == one
    one.touch()
    with folders.unused_file("jump") as third:
        assert third.name == "jump_00003.safetensors"


def test_a_name_is_refused_before_it_is_too_long_for_a_file_system(shared):
    """Which takes 255 bytes, of which a Chinese letter takes three."""
    folders = pack("nodes.host.weights_folder")
    folders.register_folder()
    for prefix in ("a" * 121, "跳" * 76, f"{'跳' * 76}/{'舞' * 76}"):
        with folders.unused_file(prefix) as path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for prefix in ("a" * 122, "跳" * 77, f"cats/{'跳' * 77}"):
        with pytest.raises(ValueError, match="is not a valid name"):
            folders.check_prefix(prefix)


@pytest.mark.parametrize("name", ["gone.safetensors", "../theirs.safetensors", "/etc/passwd", "..\\theirs.safetensors"])
def test_a_name_that_comes_over_a_link_is_looked_for_in_the_folders_alone(shared, tmp_path, name):
    (tmp_path / "theirs.safetensors").touch()
    folders = pack("nodes.host.weights_folder")
    folders.register_folder()
    with pytest.raises(ValueError, match="no tuned weights"):
        folders.file_named(name)


def test_a_server_with_a_yaml_lists_and_loads_what_lies_in_its_folder(new_server, server, tuned, tmp_path):
    shutil.copy(server.base / "models" / KEY / tuned, tmp_path / "theirs.safetensors")
    yaml = tmp_path / "extra_model_paths.yaml"
    yaml.write_text(f"theirs:\n  base_path: {tmp_path}\n  {KEY}: .\n")
    other = new_server()
    other.options += ["--extra-model-paths-config", str(yaml)]
    with other:
        client = Client(other)
        _, names = client.get("/object_info")["LoadTunedWeights"]["input"]["required"]["tuned_weights_name"]
        assert names["options"] == ["theirs.safetensors"]
        changes = {"weights": {"tuned_weights_name": "theirs.safetensors"}}
        run = client.run(ending_in(small("edit-with-saved-weights", changes), "save"))
        assert run.status == "success", run.message
