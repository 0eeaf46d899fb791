"""Clips that a node may read: files of ComfyUI's input folder, and videos on a VIDEO socket."""

import os
from pathlib import Path

import folder_paths

from ...tav_core.errors import TavError


def videos_in_input_folder() -> list[str]:
    """What the node's list offers, as core's Load Video does, and GIFs."""
    folder = folder_paths.get_input_directory()
    files = [name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))]
    videos = folder_paths.filter_files_content_types(files, ["video"])
    return sorted({*videos, *(name for name in files if name.lower().endswith(".gif"))})


def input_file(name: str) -> Path:
    """The path of a file in the input folder (or, with core's "[output]" at the end, another of its folders)."""
    # safe: public helpers that core's own loaders call; an unknown annotation leaves the folder None
    plain, folder = folder_paths.annotated_filepath(name)
    folder = Path(folder or folder_paths.get_input_directory()).resolve()
    path = Path(os.path.abspath(folder / plain))
    if not path.is_relative_to(folder):  # older hosts do not look themselves
        raise TavError(f"{name[:100]!r} leads out of ComfyUI's folders; choose a video of the input folder.")
    if not os.path.isfile(path):  # pathlib's raises where a name is too long
        raise TavError(f"There is no video {name[:100]!r} in ComfyUI's input folder; upload it, or choose another.")
    return path
