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


def write_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], kind: str, metadata: dict) -> None:
    """Writes a .safetensors file, whole or not at all, with its kind and its metadata, as JSON, in the header.

    kind: a name and a version, such as "tune-a-video/1".
    """
    header = {"format": kind, "facts": json.dumps(metadata)}
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, header)


def read_metadata(path: str | os.PathLike, kind: str) -> dict:
    """The metadata of a file written by `write_tensors`; TavError for any other file."""
    header = read_header(path)
    if (found := header.get("format")) != kind:
        if found and found.rpartition("/")[0] == kind.rpartition("/")[0]:
            raise TavError(f"{path} is of format {found!r}, which a newer version writes; update Tune-A-Video.")
        raise TavError(f"{path} is of format {found!r}, and {kind!r} is needed.")
    try:
        metadata = json.loads(header["facts"])
    except (KeyError, ValueError) as error:
        raise TavError(f"{path} is damaged: its metadata cannot be read ({error}).") from error
    if not isinstance(metadata, dict):
        raise TavError(f"{path} is damaged: its metadata is {type(metadata).__name__}, and a table is needed.")
    return metadata


def read_tensors(path: str | os.PathLike, kind: str) -> tuple[dict[str, Tensor], dict]:
    """The tensors, on the CPU, and the metadata of a file written by `write_tensors`; TavError as `read_metadata`."""
    metadata = read_metadata(path, kind)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)


def read_header(path: str | os.PathLike) -> dict[str, str]:
    """What the header of a .safetensors file holds beside its tensors; TavError for any other file."""
    if not os.path.isfile(path):
        raise TavError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise TavError(f"{path} is damaged, or not a .safetensors file ({error}).") from error


def ensure_writable(folder: str | os.PathLike) -> None:
    """Makes the folder and writes into it once, so that hours of work do not end in a folder that cannot be written."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise TavError(f"Cannot write to {folder} ({error.strerror}); choose another place.") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)  # Windows syncs only what it may write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
