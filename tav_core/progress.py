"""Progress of work that is done item by item."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def counted(items: Iterable[Item], total: int, on_step: Callable | None, part: str) -> Iterator[Item]:
    """Passes items on; calls on_step as (step, total, part=) when each is there."""
    for step, item in enumerate(items, 1):
        if on_step:
            on_step(step, total, part=part)
        yield item
