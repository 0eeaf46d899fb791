"""Atomic writes, and .safetensors files with JSON metadata."""

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
    """Yields a temporary path next to `path`; the file written there is renamed to `path` if the block succeeds.

    The temporary name keeps the suffix, because some writers choose a format by it. After an exception the temporary
    file is removed, and `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}{path.suffix}")
    temporary.touch(exist_ok=False)
    permissions = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(permissions)  # as for any new file; safetensors denies other users access
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        with contextlib.suppress(OSError):  # the rename should survive a power cut, too
            _sync(path.parent)


def write_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], kind: str, metadata: dict) -> None:
    """Writes a .safetensors file atomically, with its kind and its metadata (as JSON) in the header.

    kind: a name and a version, such as "tune-a-video/1".
    """
    header = {"format": kind, "facts": json.dumps(metadata)}
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, header)


def read_metadata(path: str | os.PathLike, kind: str) -> dict:
    """Reads the metadata of a file written by `write_tensors`; raises TavError for any other file."""
    header = read_header(path)
    if (found := header.get("format")) != kind:
        if _is_newer(found, kind):
            raise TavError(f"{path} has format {found!r}, written by a newer version; update Tune-A-Video.")
        raise TavError(f"{path} has format {found!r}, but {kind!r} is needed.")
    try:
        metadata = json.loads(header["facts"])
    except (KeyError, ValueError) as error:
        raise TavError(f"{path} is damaged: its metadata cannot be read ({error}).") from error
    if not isinstance(metadata, dict):
        raise TavError(f"{path} is damaged: its metadata must be a JSON object, got {type(metadata).__name__}.")
    return metadata


def _is_newer(found: str | None, kind: str) -> bool:
    """Whether a file's kind is a later version of this one; both are a name and a version."""
    name, _, version = (found or "").rpartition("/")
    own_name, _, own_version = kind.rpartition("/")
    return name == own_name and version.isdecimal() and int(version) > int(own_version)


def read_tensors(path: str | os.PathLike, kind: str) -> tuple[dict[str, Tensor], dict]:
    """Reads the tensors, to the CPU, and the metadata of a file written by `write_tensors`; else raises TavError."""
    metadata = read_metadata(path, kind)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)


def read_header(path: str | os.PathLike) -> dict[str, str]:
    """Reads the metadata strings in the header of a .safetensors file; raises TavError for any other file."""
    if not os.path.isfile(path):
        raise TavError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise TavError(f"{path} is damaged, or not a .safetensors file ({error}).") from error


def ensure_writable(folder: str | os.PathLike) -> None:
    """Creates the folder and writes to it once, so that a long run does not fail only when it saves."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise TavError(f"Cannot write to {folder} ({error.strerror}); choose another folder.") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)  # Windows syncs only writable files
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
