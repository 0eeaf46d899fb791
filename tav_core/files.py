"""Atomic writes, locks between processes, and .safetensors files with JSON metadata and a checksum."""

import contextlib
import getpass
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from .errors import TavError, brief, shown

FOLDER = ".tmp"
"""Ends the name of a temporary file's own folder."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path next to `path`; the file written there is renamed to `path` if the block succeeds.

    The temporary name keeps the suffix, because some writers choose a format by it. After an exception the temporary
    file is removed, and `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{_short(path.stem)}.{secrets.token_hex(4)}{path.suffix}")
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


@contextlib.contextmanager
def staged(folder: str | os.PathLike, last: str) -> Iterator[Path]:
    """Yields a temporary folder inside `folder`; if the block succeeds, the files in it replace those in `folder`.

    last: the file that describes the others. It is removed first and moved last, so that it never describes older ones.
    After an exception, all that was in `folder` is as it was. `remove_leftovers(folder / "staged")` tidies up after
    killed processes.
    """
    folder = Path(folder)
    staging = folder / f".staged.{secrets.token_hex(4)}"
    staging.mkdir()
    try:
        yield staging
        (folder / last).unlink(missing_ok=True)
        for file in sorted(staging.iterdir(), key=lambda file: file.name == last):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_leftovers(path: str | os.PathLike) -> None:
    """Deletes what killed processes left beside `path` when they were writing it; only while its lock is held."""
    path = Path(path)
    if not path.parent.is_dir():
        return
    temporary = re.compile(
        rf"\.{re.escape(_short(path.stem))}\.[0-9a-f]{{8}}({re.escape(path.suffix)})?({re.escape(FOLDER)})?"
    )
    for other in path.parent.iterdir():
        if temporary.fullmatch(other.name):
            with contextlib.suppress(OSError):
                shutil.rmtree(other) if other.is_dir() else other.unlink()


def _short(name: str) -> str:
    """Shortens a name to 40 characters; names that begin alike stay different."""
    return name if len(name) <= 40 else f"{name[:27]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"


@contextlib.contextmanager
def locked(path: str | os.PathLike, what: str) -> Iterator[None]:
    """Holds a lock on a path in this block, against other processes of this machine.

    what: what the path is, such as "The output skiing.safetensors", for the TavError that is raised if another process
        holds it.
    """
    name, user = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest(), "user"
    with contextlib.suppress(OSError, KeyError, ImportError):  # getpass finds no name for some users of containers
        user = getpass.getuser()
    # not beside the path, where the lock would stay behind; deleting it there would open a race
    folder = Path(tempfile.gettempdir(), f"tune-a-video-locks-{user}")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TavError(
            f"{what} is being written by another process; wait until it is done, or choose another."
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], kind: str, metadata: dict) -> None:
    """Writes a .safetensors file atomically, with its kind, its metadata (as JSON) and a checksum in the header.

    kind: a name and a version, such as "tune-a-video/1".
    """
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    header = {"format": kind, "facts": json.dumps(metadata), "crc32": _checksum(tensors)}
    with atomic_path(path) as temporary:
        # safetensors writes to a temporary file of its own in the same folder first
        folder = temporary.with_name(temporary.name + FOLDER)
        folder.mkdir()
        try:
            save_file(tensors, folder / temporary.name, header)
            os.replace(folder / temporary.name, temporary)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Identifies the data of tensors against flipped bits."""
    crc = 0
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(name.encode(), crc)
        if tensor.numel():
            crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"


def read_metadata(path: str | os.PathLike, kind: str) -> dict:
    """Reads the metadata of a file written by `write_tensors`; raises TavError for any other file."""
    return _metadata_in(read_header(path), path, kind)


def _metadata_in(header: Mapping[str, str], path: str | os.PathLike, kind: str) -> dict:
    if (found := header.get("format")) != kind:
        if _is_newer(found, kind):
            raise TavError(f"{path} has format {shown(found)}, written by a newer version; update Tune-A-Video.")
        raise TavError(f"{path} has format {shown(found)}, but {kind!r} is needed.")
    try:
        metadata = json.loads(header["facts"])
    except (KeyError, ValueError, RecursionError) as error:
        raise TavError(f"{path} is damaged: its metadata cannot be read ({brief(error)}).") from error
    if not isinstance(metadata, dict):
        raise TavError(f"{path} is damaged: its metadata must be a JSON object, got {type(metadata).__name__}.")
    return metadata


def _is_newer(found: str | None, kind: str) -> bool:
    """Whether a file's kind is a later version of this one; both are a name and a version."""
    name, _, version = (found or "").rpartition("/")
    own_name, _, own_version = kind.rpartition("/")
    return name == own_name and version.isdecimal() and int(version[:9]) > int(own_version)


def read_tensors(path: str | os.PathLike, kind: str) -> tuple[dict[str, Tensor], dict]:
    """Reads the tensors, to the CPU, and the metadata of a file written by `write_tensors`; else raises TavError.

    Reads the file in one go, so that both are of the same moment if another process replaces it meanwhile; safetensors
    opens a path twice.
    """
    _ensure_file(path)
    data = Path(path).read_bytes()
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise _not_tensors(path, error) from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    metadata = _metadata_in(header, path, kind)
    if header.get("crc32", found := _checksum(tensors)) != found:  # older files have none
        raise TavError(f"{path} is damaged: its data do not match its checksum.")
    return tensors, metadata


def without_numbers(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold anything but finite real numbers, of float32's range."""
    return [name for name, t in tensors.items() if not (t.is_floating_point() and t.float().isfinite().all())]


def read_header(path: str | os.PathLike) -> dict[str, str]:
    """Reads the metadata strings in the header of a .safetensors file; raises TavError for any other file."""
    _ensure_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise _not_tensors(path, error) from error


def _ensure_file(path: str | os.PathLike) -> None:
    if not os.path.isfile(path):
        raise TavError(f"There is no file {path}.")


def _not_tensors(path: str | os.PathLike, error: SafetensorError) -> TavError:
    return TavError(f"{path} is damaged, or not a .safetensors file ({brief(error)}).")


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
