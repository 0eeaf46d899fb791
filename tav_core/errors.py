"""Errors for the user: our own exception, and clear messages for failures that are not bugs."""

import errno
import re
import reprlib

import torch
from safetensors import SafetensorError

LONGEST = 1200  # characters of a message


class TavError(ValueError):
    """Invalid input, or a run that cannot continue; the message says what was given, what is needed and what to do."""

    __module__ = "tune_a_video"  # ComfyUI shows the type with its module, which is else the long path of this pack

    def __str__(self) -> str:
        """The message; one with an endless name or path loses its middle, not the advice at its end."""
        text = super().__str__()
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


class Overflowed(TavError):
    """Latents that became NaN or infinite; hosts say which of their settings helps."""


def need(condition: bool, name: str, got: object, needed: str) -> None:
    """Raises TavError for a setting that does not meet its condition."""
    if not condition:
        raise TavError(f"{name} must be {needed}; got {shown(got)}.")


def shown(value: object) -> str:
    """A value for an error message: escaped, and cut short where it is long, nested or repeated."""
    text = _SHORT.repr(value)
    return text if len(text) <= 300 else f"{text[:297]}..."


def brief(text: object) -> str:
    """A name from a file, or the message of another library, for one of ours: on one line, escaped, and cut short."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in " ".join(str(text)[:3000].split()))
    return text if len(text) <= 300 else f"{text[:297]}..."


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8, which lone halves of surrogate pairs cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxtuple = 3, 8, 8, 8
_SHORT.maxstring = _SHORT.maxother = 150


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the device or the machine is out of memory."""
    message = str(error).lower()
    signs = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(sign in message for sign in signs)
    )


def message_for(error: BaseException) -> str | None:
    """The message to show the user; None for a bug, which needs its traceback."""
    if isinstance(error, TavError):
        return str(error)
    if is_out_of_memory(error):
        return (
            "Out of memory. Turn on gradient checkpointing (tuning will resume), or use windows of frames, fewer "
            "frames or a smaller size."
        )
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        where = f"{brief(error.filename2 or error.filename)}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None))
        advice = "Free some space or choose another place" if full else "Check that it can be read and written"
        return f"{where}{error.strerror or error}. {advice}, then start again."
    # safetensors reports I/O errors as an exception of its own, not as OSError
    if isinstance(error, SafetensorError) and (refused := re.search(r"I/O error: (.+) \(os error", str(error))):
        return f"A file could not be written ({refused[1]}). Free some space or choose another place, then start again."
    return None
