"""Frees memory, and gives errors such as running out of it a clear message."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management

from ...tav_core.errors import TavError, is_out_of_memory, message_for


def free_all() -> None:
    """Unloads the host's models from the device, and frees memory that is no longer used."""
    gc.collect()
    # safe: what the host's own "free memory" button does
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


@contextmanager
def readable_errors(advice: str | None = None) -> Iterator[None]:
    """Gives errors such as out of memory or a full disk a clear message. advice: what to do if memory ran out."""
    try:
        yield
    except Exception as error:
        message = f"Out of memory; {advice}." if advice and is_out_of_memory(error) else message_for(error)
        if message is None or isinstance(error, TavError):
            raise
        if is_out_of_memory(error):
            error.__traceback__ = None  # it would keep the stack's tensors alive
            free_all()
        raise TavError(message) from error
