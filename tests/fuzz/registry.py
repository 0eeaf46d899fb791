"""The readers by name.

A reader is a function (rng, folder) -> call: it writes one mutated input into an empty folder, from the random numbers
alone, and returns the call that reads it.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

Reader = Callable[[Random, Path], Callable[[], object]]
READERS: dict[str, Reader] = {}


def reader(function: Reader) -> Reader:
    READERS[function.__name__] = function
    return function
