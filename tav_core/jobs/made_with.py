"""What a video says of how it was made: in the file's own comment, so that it stays with the file."""

import json
import os
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


def prompt_of(video: Path) -> str | None:
    """The prompt that a video was made with; None if it does not say."""
    try:
        prompt = json.loads(comment_of(video))[KEY]["prompt"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return prompt if isinstance(prompt, str) and prompt.strip() and is_text(prompt) else None
