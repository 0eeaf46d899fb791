import errno
import os

import pytest
import torch
from safetensors import SafetensorError

from tav_core import TavError
from tav_core.files import atomic_path, read_metadata, read_tensors, write_tensors
from tests.limits import files_no_larger_than


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half" * (1 // 0))
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"), atomic_path(path) as temporary:
        temporary.write_text("after")
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.skipif(os.name != "posix", reason="resource limits are of POSIX systems")
def test_a_file_that_the_system_refuses_to_grow_leaves_what_was_there(tmp_path):
    """A real refusal, by a limit on file sizes, in the middle of writing."""
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"a": torch.zeros(3)}, "test/1", {})
    before = path.read_bytes()
    with files_no_larger_than(2**16), pytest.raises(SafetensorError, match="File too large"):
        write_tensors(path, {"a": torch.zeros(2**20)}, "test/1", {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["file.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits are of POSIX systems")
def test_a_written_file_is_as_readable_as_any_other_new_one(tmp_path):
    (tmp_path / "plain").touch()
    write_tensors(tmp_path / "file.safetensors", {"a": torch.zeros(3)}, "test/1", {})
    assert (tmp_path / "file.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_tensors_and_metadata_come_back_and_other_files_are_refused(tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"a": torch.arange(6).reshape(2, 3).t()}, "test/1", {"steps": 3})
    tensors, metadata = read_tensors(path, "test/1")
    assert torch.equal(tensors["a"], torch.arange(6).reshape(2, 3).t())
    assert metadata == {"steps": 3}
    with pytest.raises(TavError, match="format 'test/1', but 'other/1' is needed"):
        read_metadata(path, "other/1")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(TavError, match="is damaged"):
        read_metadata(path, "test/1")
    with pytest.raises(TavError, match="There is no file"):
        read_metadata(tmp_path / "absent", "test/1")
