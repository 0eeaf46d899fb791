"""What went wrong, in one sentence, for all that can go wrong without a fault in the program."""

import errno
import re

from safetensors import SafetensorError

from .errors import TavError
from .memory import is_out_of_memory


def sentence_for(error: BaseException) -> str | None:
    """The sentence that the user needs; None for a bug, whose traceback is what is needed."""
    if isinstance(error, TavError):
        return str(error)
    if is_out_of_memory(error):
        return (
            "The memory is not enough: for tuning, switch gradient checkpointing on, and the run goes on where it was; "
            "or take fewer frames or a smaller size."
        )
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        where = f"{error.filename2 or error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None))
        advice = "Free some space or choose another place" if full else "See that it can be read or written there"
        return f"{where}{error.strerror or error}. {advice}, and start again."
    # safetensors writes its files itself, and tells so when the system refuses
    if isinstance(error, SafetensorError) and (refused := re.search(r"I/O error: (.+) \(os error", str(error))):
        return f"A file could not be written ({refused[1]}). Free some space or choose another place, and start again."
    return None
