import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from tav_core import TavError
from tav_core.files import atomic_path, locked, read_metadata, read_tensors, remove_leftovers, staged, write_tensors
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


def test_a_flipped_bit_in_the_data_is_found(tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"a": torch.zeros(100), "b": torch.ones(3, dtype=torch.bfloat16)}, "test/1", {})
    whole = bytearray(path.read_bytes())
    for place in (-1, -7, -300):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(TavError, match="do not match its checksum"):
            read_tensors(path, "test/1")


def test_files_of_older_versions_have_no_checksum(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "file.safetensors", {"format": "test/1", "facts": "{}"})
    assert read_tensors(tmp_path / "file.safetensors", "test/1")[0]["a"].tolist() == [1, 1]


@pytest.mark.parametrize("facts", ["[" * 100_000, "[1]", "7", "{"])
def test_metadata_of_another_form_are_damage(tmp_path, facts):
    save_file({"a": torch.ones(2)}, tmp_path / "file.safetensors", {"format": "test/1", "facts": facts})
    with pytest.raises(TavError, match="is damaged"):
        read_metadata(tmp_path / "file.safetensors", "test/1")


def test_tensors_and_metadata_are_of_the_same_moment(tmp_path):
    """Another process replaces the file all the time; opened twice, one read in 60 was torn."""
    path, script = (
        tmp_path / "file.safetensors",
        (
            "import itertools, sys, torch; from tav_core.files import write_tensors\n"
            "for step in itertools.count():\n"
            "    write_tensors(sys.argv[1], {'a': torch.full((9,), step)}, 'test/1', {'step': step})"
        ),
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], cwd=Path(__file__).parents[1]) as writer:
        try:
            while not path.exists():
                time.sleep(0.05)
            seen = set()
            while len(seen) < 100:
                tensors, metadata = read_tensors(path, "test/1")
                assert tensors["a"].tolist() == [metadata["step"]] * 9
                seen.add(metadata["step"])
        finally:
            writer.kill()
    remove_leftovers(path)
    assert os.listdir(tmp_path) == ["file.safetensors"]


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    path = tmp_path / "a.long.name.safetensors"
    kept = [".a.long.name.safetensors", ".a.other.0123abcd.safetensors", "a.long.name.0123abcd.safetensors", ".tmpAb12"]
    for name in (*kept, ".a.long.name.0123abcd.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / ".a.long.name.89abcdef").mkdir()
    (tmp_path / ".a.long.name.89abcdef" / ".tmpAb12").touch()
    remove_leftovers(path)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


def test_staged_files_replace_others_together_or_not_at_all(tmp_path):
    for name in ("list", "a", "other"):
        (tmp_path / name).write_text("before")
    with pytest.raises(ZeroDivisionError), staged(tmp_path, last="list") as staging:
        (staging / "a").write_text("half" * (1 // 0))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("list", "a", "other"), "before"
    )
    with staged(tmp_path, last="list") as staging:
        for name in ("a", "new", "list"):
            (staging / name).write_text("after")
        assert (tmp_path / "a").read_text() == "before"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "list": "after",
        "a": "after",
        "new": "after",
        "other": "before",
    }


def test_a_killed_staging_is_removed_at_the_next_start(tmp_path):
    (tmp_path / ".staged.0123abcd").mkdir()
    (tmp_path / ".staged.0123abcd" / "half.mp4").touch()
    remove_leftovers(tmp_path / "staged")
    assert not os.listdir(tmp_path)


def test_a_lock_is_held_against_other_processes_and_given_back(tmp_path):
    script = "import sys; from tav_core.files import locked\nwith locked(sys.argv[1], 'The output'): print('held')"

    def other() -> subprocess.CompletedProcess:
        root = Path(__file__).parents[1]
        return subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "x")], cwd=root, capture_output=True, text=True
        )

    with locked(tmp_path / "x", "The output"):
        assert "The output is being written by another process" in other().stderr
        with locked(tmp_path / "y", "Another"):
            pass
    assert other().stdout == "held\n"
    assert not os.listdir(tmp_path)


def test_a_message_with_an_endless_name_keeps_what_to_do_at_its_end():
    message = str(TavError(f"There is no file {'x' * 100_000}; check the path."))
    assert len(message) < 1300
    assert message.startswith("There is no file xxx")
    assert message.endswith("; check the path.")
