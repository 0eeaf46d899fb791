"""What a video says of how it was made: in the file's own comment, so that it stays with the file."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import is_text
from ..video.write import comment_of

MANIFEST = "manifest.json"
"""Says the same of all videos in an output folder, and more."""

KEY = "tune_a_video"
SETTINGS = ("negative_prompt", "num_steps", "guidance_scale", "strength", "seed")


def made_with(prompt: str, config, weights: Path) -> str:
    """A comment for `write_video`. config: has the SETTINGS."""
    settings = {name: getattr(config, name) for name in SETTINGS}
    return json.dumps({KEY: {"prompt": prompt, **settings, "weights": Path(os.path.abspath(weights)).name}})


@dataclass(frozen=True)
class Made:
    """How a video was made. prompt: not blank. weights: their file's name, if it is known."""

    prompt: str
    weights: str | None


def made_of(video: Path) -> Made | None:
    """How a video was made; None if it does not say."""
    try:
        said = json.loads(comment_of(video))[KEY]
        prompt, weights = said["prompt"], said.get("weights")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not (isinstance(prompt, str) and prompt.strip() and is_text(prompt)):
        return None
    return Made(prompt, weights if isinstance(weights, str) else None)
