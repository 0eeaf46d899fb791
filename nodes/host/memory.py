"""Memory before, after and where it runs out."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management

from ...tav_core.errors import TavError, is_out_of_memory, message_for


def free_all() -> None:
    """Takes the host's models off the device, and gives back what nobody holds any more."""
    gc.collect()
    # safe: what the host's own "free memory" button does
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


@contextmanager
def in_plain_words(advice: str | None = None) -> Iterator[None]:
    """Ends a job that ran out of memory, disk or the like with a clear message; `advice` is what to do about memory."""
    try:
        yield
    except Exception as error:
        message = f"Out of memory; {advice}." if advice and is_out_of_memory(error) else message_for(error)
        if message is None or isinstance(error, TavError):
            raise
        if is_out_of_memory(error):
            error.__traceback__ = None  # it holds the tensors of each function that it came through
            free_all()
        raise TavError(message) from error
