"""Where tuned weights are stored: models/tune_a_video, and folders from extra_model_paths.yaml.

Where models lie on a disk that cannot be written to, weights and runs go to output/tune_a_video.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import folder_paths

from ...tav_core.errors import TavError, is_text, shown
from ...tav_core.files import ensure_writable, locked

KEY, SUFFIX = "tune_a_video", ".safetensors"
LONGEST = 230  # bytes of a name in UTF-8; file systems take 255, number and suffix included


def register_folder() -> None:
    """Registers our folders with ComfyUI, for writing, around those from the user's yaml, which are only read."""
    first, last = _own_folders()
    # safe: core itself fills this dict at start; add_model_folder_path would accept files of any suffix
    folders, _ = folder_paths.folder_names_and_paths.get(KEY, ([], set()))
    folder_paths.folder_names_and_paths[KEY] = ([*dict.fromkeys([str(first), *folders, str(last)])], {SUFFIX})


def folder_to_write() -> Path:
    """models/tune_a_video, or output/tune_a_video if that cannot be written to."""
    first, last = _own_folders()
    try:
        ensure_writable(first)
    except TavError:
        return last
    return first


def _own_folders() -> tuple[Path, Path]:
    return Path(folder_paths.models_dir, KEY), Path(folder_paths.get_output_directory(), KEY)


def names_of_files() -> list[str]:
    """The weights in these folders, except hidden files such as unfinished runs."""
    names = folder_paths.get_filename_list(KEY)
    return [name for name in names if not any(part.startswith(".") for part in Path(name).parts)]


def file_named(name: str) -> Path:
    """The path of one of `names_of_files`."""
    if path := folder_paths.get_full_path(KEY, name):
        return Path(path)
    raise TavError(f"There are no tuned weights {shown(name)} in models/tune_a_video any more; choose another file.")


def runs_folder() -> Path:
    """Where interrupted and finished runs of One-Shot Tune are kept."""
    return folder_to_write() / ".runs"


def name_of(path: Path) -> str:
    """The name under which Load Tuned Weights lists a file that was saved."""
    folder = next(folder for folder in _own_folders() if path.is_relative_to(folder))
    return str(path.relative_to(folder))


def check_prefix(prefix: str) -> None:
    """Raises TavError for a prefix that could not start a file name inside the folder."""
    if not is_text(prefix) or not all(map(_is_name, _parts(prefix))):
        raise TavError(
            f"The filename_prefix {shown(prefix[:100])} is not a valid name inside models/tune_a_video; each part must "
            "have 1 to 121 characters (about 75 in Chinese), not start with a dot and contain none of "
            '< > : " | ? *, as in cats/jump. The tuning itself is kept: with another name, queue again, and it is not '
            "repeated."
        )


def _parts(prefix: str) -> list[str]:
    return re.split(r"[/\\]", prefix)


def _is_name(part: str) -> bool:
    fits = re.fullmatch(r"[^.<>:\"|?*\x00-\x1f][^<>:\"|?*\x00-\x1f]{0,120}", part)
    return bool(fits) and len(part.encode()) <= LONGEST


@contextmanager
def unused_file(prefix: str) -> Iterator[Path]:
    """Yields the first unused numbered path with this prefix, in our folder, which no other server then takes."""
    check_prefix(prefix)  # here too: the host does not validate linked inputs
    stem = folder_to_write().joinpath(*_parts(prefix))
    for number in count(1):
        path = stem.with_name(f"{stem.name}_{number:05}{SUFFIX}")
        if path.exists():
            continue  # without a lock, of which the file would stay behind
        with ExitStack() as held:
            try:
                held.enter_context(locked(path, f"The file {path.name}"))
            except TavError:
                continue
            if not path.exists():
                yield path
                return
