"""The video files that a node may read, from ComfyUI's input folder."""

import contextlib
import os
from pathlib import Path

import folder_paths

from ...tav_core.errors import TavError
from ...tav_core.video.containers import is_animated_webp


def videos_in_input_folder() -> list[str]:
    """The files that core's Load Video lists, plus GIFs and animated WebPs."""
    folder = folder_paths.get_input_directory()
    files = [name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))]
    videos = folder_paths.filter_files_content_types(files, ["video"])
    return sorted({*videos, *(name for name in files if _moves(os.path.join(folder, name)))})


def _moves(path: str) -> bool:
    suffix = os.path.splitext(path)[1].lower()
    with contextlib.suppress(OSError):  # gone, or not to be read
        return suffix == ".gif" or (suffix == ".webp" and is_animated_webp(Path(path)))
    return False


def input_file(name: str) -> Path:
    """The path of a file in the input folder, or in another of core's folders if the name ends in e.g. "[output]"."""
    # safe: public helpers that core's own loaders call; without a known annotation, the folder is None
    plain, folder = folder_paths.annotated_filepath(name)
    folder = Path(folder or folder_paths.get_input_directory()).resolve()
    path = Path(os.path.abspath(folder / plain))
    if not path.is_relative_to(folder):  # older hosts do not check this
        raise TavError(f"{name[:100]!r} is outside ComfyUI's folders; choose a video in the input folder.")
    if not os.path.isfile(path):  # Path.is_file raises if a name is too long
        raise TavError(f"There is no video {name[:100]!r} in ComfyUI's input folder; upload it, or choose another.")
    return path
