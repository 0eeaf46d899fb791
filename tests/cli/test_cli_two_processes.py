"""Two processes at one output, and what a killed or damaged one leaves behind."""

import os
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from tav_core import TunedWeights
from tav_core.files import atomic_path, locked, remove_leftovers, write_tensors
from tav_core.jobs.selection import Selection
from tav_core.jobs.tuning import prepare_tuning
from tav_core.tune import TuneConfig
from tests.cli.test_cli import CPU, editing, files, stopped, tav, tuning  # noqa: F401  `files` is a fixture


@contextmanager
def another_process_at(path):
    """Locks are held by a process as a whole, so the other one is this test's own, by another file descriptor."""
    with locked(path, "It"):
        yield


def half_written(path) -> Path:
    """What a killed process leaves of a file."""
    with suppress(KeyboardInterrupt), atomic_path(path) as temporary:
        raise KeyboardInterrupt
    temporary.write_bytes(b"half a fi")
    return temporary


def test_two_tunings_of_one_output_do_not_replace_each_other(files, tmp_path):  # noqa: F811
    output, selection = tmp_path / "ball.safetensors", Selection(files / "ball.mp4", 4, 64)

    def prepared(prompt):
        config = TuneConfig(num_steps=1, gradient_checkpointing=False)
        return prepare_tuning(selection, prompt, files / "sd.safetensors", output, config=config, device=CPU)

    first, second = prepared("a ball"), prepared("a cube")
    first.run()
    before = output.read_bytes()
    with pytest.raises(ValueError, match="another process has written meanwhile"):
        second.run()
    assert output.read_bytes() == before
    assert os.listdir(tmp_path) == ["ball.safetensors"]


def test_what_another_process_is_writing_is_left_to_it(files, tmp_path):  # noqa: F811
    output, folder = tmp_path / "ball.safetensors", tmp_path / "edits"
    with another_process_at(output):
        assert "is being written by another process" in tav(*tuning(files, output)).err
    assert not output.exists()
    assert tav(*tuning(files, output)).code == 0
    with another_process_at(folder):
        assert "is being written by another process" in tav(*editing(files, folder, "a cube", weights=output)).err
    assert not list(folder.iterdir())


def test_files_of_killed_processes_are_removed_at_the_next_start(files, tmp_path):  # noqa: F811
    output = tmp_path / "ball.safetensors"
    stopped(tuning(files, output))
    (resume,) = tmp_path.glob("*.resume.safetensors")
    half_written(resume)
    half_written(output)
    assert tav(*tuning(files, output)).code == 0
    assert os.listdir(tmp_path) == ["ball.safetensors"]


def test_what_is_written_under_a_long_name_that_begins_alike_is_left_alone(tmp_path):
    names = [f"a-man-is-skiing-down-a-snowy-mountain-in-the-alps-{number}" for number in (1, 2)]
    first, second = (half_written(tmp_path / f"{name}.safetensors") for name in names)
    remove_leftovers(tmp_path / f"{names[1]}.safetensors")
    assert first.exists()
    assert not second.exists()


def test_a_name_without_a_suffix_can_be_written_beside_a_folder(tmp_path):
    (tmp_path / ".run").mkdir()
    write_tensors(tmp_path / "run", {"a": torch.zeros(2)}, "test/1", {})
    assert sorted(os.listdir(tmp_path)) == [".run", "run"]


def test_a_damaged_resume_file_starts_again_and_says_so(files, tmp_path):  # noqa: F811
    output, whole = tmp_path / "ball.safetensors", tmp_path / "whole.safetensors"
    assert tav(*tuning(files, whole)).code == 0
    stopped(tuning(files, output))
    (resume,) = tmp_path.glob("*.resume.safetensors")
    damaged = bytearray(resume.read_bytes())
    damaged[-5] ^= 1
    resume.write_bytes(damaged)
    outcome = tav(*tuning(files, output))
    assert outcome.code == 0
    assert "do not match its checksum. The run starts from the beginning." in outcome.err
    got, expected = (TunedWeights.load(path).tensors for path in (output, whole))
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())


def test_an_edit_that_fails_leaves_the_older_one_as_it_is(files, tmp_path, monkeypatch):  # noqa: F811
    weights = tmp_path / "ball.safetensors"
    assert tav(*tuning(files, weights)).code == 0
    folder = tmp_path / "edits"
    assert tav(*editing(files, folder, "a cube", weights=weights)).code == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr("tav_core.jobs.edit_run.invert", full)
    assert tav(*editing(files, folder, "a dog", weights=weights, inversion_steps=2)).code != 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
