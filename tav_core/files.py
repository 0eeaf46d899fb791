"""Files that are either whole or not there."""

import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import TavError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what is written there takes the final name when the block ends well.

    The temporary name keeps the suffix, so writers that choose a format by it still do. After an exception the
    temporary file is removed and whatever stood under `path` is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}{path.suffix}")
    temporary.touch(exist_ok=False)
    permissions = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(permissions)  # those of a new file; safetensors shuts others out of what it writes
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        with contextlib.suppress(OSError):  # the rename, too, outlives a power cut where the file system can do that
            _sync(path.parent)


def write_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], kind: str, facts: dict) -> None:
    """Writes a .safetensors file, whole or not at all, that says what kind of file it is and, as JSON, some facts."""
    metadata = {"format": kind, "facts": json.dumps(facts)}
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def read_facts(path: str | os.PathLike, kind: str) -> dict:
    """The facts of a file that `write_tensors` wrote; a TavError says why another cannot be read."""
    if not os.path.isfile(path):
        raise TavError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise TavError(f"{path} is damaged, or no .safetensors file ({error}).") from error
    if metadata.get("format") != kind:
        raise TavError(f"{path} is of format {metadata.get('format')!r}, and {kind!r} is needed.")
    try:
        return json.loads(metadata["facts"])
    except (KeyError, ValueError) as error:
        raise TavError(f"{path} is damaged: its facts cannot be read ({error}).") from error


def read_tensors(path: str | os.PathLike, kind: str) -> tuple[dict[str, Tensor], dict]:
    """The tensors, on the CPU, and the facts of a file that `write_tensors` wrote; TavError as `read_facts`."""
    facts = read_facts(path, kind)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 (not a dict)


def ensure_writable(folder: str | os.PathLike) -> None:
    """Makes the folder and tries to write into it, so that hours of work do not end at a closed door."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise TavError(f"Nothing can be written into {folder} ({error.strerror}); choose another place.") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)  # Windows syncs only what it may write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
