"""Where tuned weights live: models/tune_a_video, and the folders that extra_model_paths.yaml adds."""

import os
import re
from pathlib import Path

import folder_paths

from ...tav_core.errors import TavError

KEY, SUFFIX = "tune_a_video", ".safetensors"


def register_folder() -> None:
    """Tells ComfyUI of the folder, into which is written; those that the user's yaml added before are read."""
    first = os.path.join(folder_paths.models_dir, KEY)
    # safe: add_model_folder_path would do, but takes any suffix; this dict is what core's own start fills
    folders, _ = folder_paths.folder_names_and_paths.get(KEY, ([], set()))
    folder_paths.folder_names_and_paths[KEY] = ([*dict.fromkeys([first, *folders])], {SUFFIX})


def names_of_files() -> list[str]:
    """The weights in these folders; hidden ones, among them unfinished runs, are left out."""
    names = folder_paths.get_filename_list(KEY)
    return [name for name in names if not any(part.startswith(".") for part in Path(name).parts)]


def file_named(name: str) -> Path:
    """The path of one of `names_of_files`."""
    if path := folder_paths.get_full_path(KEY, name):
        return Path(path)
    raise TavError(f"There are no tuned weights {name!r} in models/tune_a_video any more; choose others.")


def runs_folder() -> Path:
    """Where interrupted and finished runs of One-Shot Tune are kept."""
    return Path(folder_paths.models_dir, KEY, ".runs")


def name_of(path: Path) -> str:
    """What Load Tuned Weights lists a file in the first of the folders as."""
    return str(path.relative_to(folder_paths.get_folder_paths(KEY)[0]))


def check_prefix(prefix: str) -> None:
    """Raises TavError where no file's name in the folder may begin so."""
    parts = re.split(r"[/\\]", prefix)
    if not all(re.fullmatch(r"[^.<>:\"|?*\x00-\x1f][^<>:\"|?*\x00-\x1f]{0,120}", part) for part in parts):
        raise TavError(
            f"The filename_prefix is {prefix[:100]!r}, but a name inside models/tune_a_video is needed, whose parts do "
            'not begin with a dot or hold any of < > : " | ? *; give cats/jump, for example.'
        )


def next_file(prefix: str) -> Path:
    """The first free numbered path of this prefix, in the first of the folders."""
    check_prefix(prefix)  # here too, for over a link it comes unseen
    stem = Path(folder_paths.get_folder_paths(KEY)[0], *re.split(r"[/\\]", prefix))
    number = 1
    while (path := stem.with_name(f"{stem.name}_{number:05}{SUFFIX}")).exists():
        number += 1
    return path
