"""What an output folder of `tav edit`, `tav run` or `tav demo` says of the videos in it."""

import json
from pathlib import Path

MANIFEST = "manifest.json"


def prompt_of_edit(video: Path) -> str | None:
    """The prompt that a video was edited with; None if no intact manifest beside it lists the video."""
    try:
        edits = json.loads((video.parent / MANIFEST).read_text(encoding="utf-8"))["edits"]
        prompts = [edit["prompt"] for edit in edits if edit["path"] == video.name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return prompts[0] if prompts and isinstance(prompts[0], str) else None
