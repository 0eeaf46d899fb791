"""Readers with faults that the fuzzer must find, and one without."""

import ctypes
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.fuzz.registry import reader


@reader
def raises(rng: Random, folder: Path) -> Callable[[], object]:
    return lambda: {}["a"]


@reader
def refuses(rng: Random, folder: Path) -> Callable[[], object]:
    return lambda: refuse("This is damaged; download it again.")


@reader
def refuses_at_length(rng: Random, folder: Path) -> Callable[[], object]:
    def refuse_at_length() -> None:
        raise OSError(errno.EIO, "x" * 5000)

    return refuse_at_length


@reader
def colours(rng: Random, folder: Path) -> Callable[[], object]:
    return lambda: refuse("\x1b[31mred")


@reader
def waits(rng: Random, folder: Path) -> Callable[[], object]:
    os.mkfifo(folder / "pipe")
    return lambda: (folder / "pipe").read_bytes()


@reader
def computes(rng: Random, folder: Path) -> Callable[[], object]:
    def forever() -> None:
        while time.time():
            pass

    return forever


@reader
def grows(rng: Random, folder: Path) -> Callable[[], object]:
    return lambda: bytes(10 << 30)


@reader
def fills(rng: Random, folder: Path) -> Callable[[], object]:
    return lambda: len(b"x" * (2150 << 20))


@reader
def dies(rng: Random, folder: Path) -> Callable[[], object]:
    return lambda: ctypes.string_at(0)


def refuse(message: str) -> None:
    from tav_core.errors import TavError  # which takes seconds; the others do without

    raise TavError(message)
