"""The fuzzer finds what it is for, and nothing in some cases of each reader; `python -m tests.fuzz` runs for longer."""

import itertools
import sys
from pathlib import Path
from random import Random

import pytest

from tests.find_comfyui import find_comfyui
from tests.fuzz import material, networks, own_files, pictures, texts  # noqa: F401
from tests.fuzz.process import HOST, LIBRARY, Process
from tests.fuzz.registry import READERS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and what a process used are Linux's")
SLOW = ("checkpoint_file", "checkpoint_folder", "originals_result", "lora")


def test_damaged_inputs_are_opened_or_refused_in_one_readable_sentence():
    faults = {}
    with Process(LIBRARY + HOST if find_comfyui() else LIBRARY) as process:
        for reader in process.readers:
            for number in range(1 if reader in SLOW else 6):
                if fault := process.fault_in(reader, seed := f"test-{number}"):
                    faults[f"--replay {reader}:{seed}"] = fault
    assert not faults


def test_each_kind_of_fault_is_found_and_the_next_case_runs():
    found, expected = {}, {
        "raises": "KeyError in tests/fuzz/faulty.py, <lambda>",
        "refuses_at_length": "a message of 50",
        "colours": "control characters",
        "waits": "hangs: File \"tests/fuzz/faulty.py\"",
        "computes": "hangs: File \"tests/fuzz/faulty.py\"",
        "grows": "MemoryError in tests/fuzz/faulty.py",
        "fills": "memory: 2.",
        "dies": "died of SIGSEGV",
    }  # fmt: skip
    with Process(("tests.fuzz.faulty",)) as process:
        for reader in process.readers:
            # only those that hang: to fill two gigabytes takes a slow machine longer
            process.patience = 3.0 if reader in ("waits", "computes") else 60.0
            found[reader] = process.fault_in(reader, "0")
    assert found.pop("refuses") is None
    assert {reader: fault.startswith(expected[reader]) for reader, fault in found.items()} == dict.fromkeys(
        expected, True
    ), found


@pytest.mark.parametrize("name", ["clip", "image_folder", "config", "state", "manifest", "controlnet", "lora"])
def test_a_seed_gives_the_same_case_in_each_process(name, tmp_path):
    for number, folder in itertools.product(range(6), ("once", "again")):
        (tmp_path / f"{folder}{number}").mkdir()
        READERS[name](Random(number), tmp_path / f"{folder}{number}")
        for made in (material.clip, material.picture, material.webp, material.lora):
            made.cache_clear()
    written = {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert written
    assert all(data == written[Path(str(file).replace("again", "once"))] for file, data in written.items())
