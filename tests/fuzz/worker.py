"""Runs cases one after the other in a process of its own: `python -m tests.fuzz.worker MODULE...`.

It first answers with the names of the readers in the modules. Then each line on stdin is READER SEED, and the answer a
line of JSON: what is wrong, and where, or null. What a reader prints goes to stderr, which also tells where a process
hung when it is sent SIGUSR1.
"""

import faulthandler
import importlib
import json
import logging
import os
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from random import Random

from tests.fuzz.registry import READERS

ROOM = 2 << 30
"""Bytes that a case may take, in memory that is really used."""
LONGEST_MESSAGE = 2000
ROOT = Path(__file__).parents[2]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what readers print is no answer
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    warnings.simplefilter("ignore")
    logging.disable()
    for module in sys.argv[1:]:
        importlib.import_module(module)
    answers.write(json.dumps(list(READERS)) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(fault_in(*line.split())) + "\n")


def fault_in(name: str, seed: str) -> str | None:
    """What is wrong with how a reader takes the case of this seed; None if it opens or refuses it as it should."""
    before = _begin_to_measure()
    with tempfile.TemporaryDirectory() as folder:  # in a folder of this process alone
        read = READERS[name](Random(f"{name} {seed}"), Path(folder))
        fault = None
        try:
            read()
        except Exception as error:
            fault = fault_of(error)
    if fault is None and (grown := _peak() - before) > ROOM:
        return f"memory: {grown / 2**30:.1f} GiB"
    return fault


def fault_of(error: Exception) -> str | None:
    """Why this is no proper answer to a damaged input; None if it is: one readable message."""
    # ComfyUI loads the pack's own copy of tav_core
    errors = [module for name, module in sys.modules.items() if name.endswith("tav_core.errors")]
    message, where = next(filter(None, (each.message_for(error) for each in errors)), None), _place(error)
    if any(each.is_out_of_memory(error) for each in errors):
        return f"memory: {type(error).__name__} in {where}"
    if message is None:
        return f"{type(error).__name__} in {where}: {str(error)[:200]!r}"
    if len(message) > LONGEST_MESSAGE:
        return f"a message of {len(message)} characters in {where}: {message[:200]!r}"
    if not all(letter.isprintable() or letter == "\n" for letter in message):
        return f"control characters in a message in {where}: {message[:200]!r}"
    return None


def _place(error: BaseException) -> str:
    """The innermost function of this project in a traceback."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_ours(f.filename)]
    return f"{Path(frames[-1].filename).relative_to(ROOT)}, {frames[-1].name}" if frames else "a library"


def _is_ours(name: str) -> bool:
    return any(name.startswith(f"{ROOT}/{folder}/") for folder in ("tav_core", "nodes", "tests"))


def _begin_to_measure() -> int:
    """The memory in use; limits what comes to twice what a case may take, so that the machine is safe."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    return _peak()


def _peak() -> int:
    """The most memory that this process has used, in bytes, since its peak was cleared."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
