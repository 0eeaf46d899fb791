"""The paper's own evaluation (section 5.2): CLIP scores of edited videos, next to the published ones."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..checkpoints.prompt_weights import without_weights
from ..errors import TavError, brief, shown
from ..jobs.made_with import MANIFEST
from ..metrics import ClipScorer, ClipScores
from ..video.read import read_frames
from .published import published_of

PUBLISHED = {system: ClipScores(*scores) for system, scores in published_of(*ClipScores._fields).items()}


@dataclass(frozen=True)
class EditedVideo:
    """A video edited with a prompt; num_frames and size (width, height) are those of the edit."""

    path: Path
    prompt: str
    num_frames: int
    size: tuple[int, int]


def edited_videos(folder: Path) -> list[EditedVideo]:
    """The videos in an output folder of `tav edit`, `tav run` or `tav demo`, as listed in its manifest.json."""
    path = folder / MANIFEST
    if not path.is_file():
        raise TavError(f"{folder} holds no {MANIFEST}; give an output folder of `tav edit`, `tav run` or `tav demo`.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        frames, size = manifest["selection"]["frames"], tuple(manifest["selection"]["size"])
        edits = [(edit["path"], edit["prompt"]) for edit in manifest["edits"]]
        if not all(type(number) is int for number in (frames, *size)) or len(size) != 2:
            raise TypeError(f"its selection has {shown(frames)} frames of the size {shown(size)}")
        if odd := [text for text in itertools.chain(*edits) if not isinstance(text, str)]:
            raise TypeError(f"{shown(odd[0])} is no path or prompt")
        if odd := [name for name, _ in edits if not name.isprintable()]:
            raise ValueError(f"{shown(odd[0])} is no file of an edit")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else brief(error)
        raise TavError(f"{path} cannot be read ({why}); make the edits again.") from error
    return [EditedVideo(folder / name, prompt, frames, size) for name, prompt in edits]


def score_videos(
    videos: Sequence[EditedVideo], scorer: ClipScorer, on_step: Callable | None = None
) -> list[ClipScores]:
    """Scores each video against its prompt. on_step: called as (step, total, part=) after each."""
    scores = []
    for number, video in enumerate(videos, 1):
        frames = read_frames(video.path, video.num_frames, size=video.size).frames
        scores.append(scorer.score(frames, without_weights(video.prompt)))
        if on_step:
            on_step(number, len(videos), part="scoring")
    return scores


def scores_as_json(videos: Sequence[EditedVideo], scores: Sequence[ClipScores], clip_model: str) -> dict:
    """Mean and sample standard deviation over the videos, the scores of each, and the published ones."""
    columns = dict(zip(ClipScores._fields, zip(*scores, strict=True), strict=True))
    return {
        "clip_model": clip_model,
        **{name: {"mean": float(np.mean(column)), "std": _std(column)} for name, column in columns.items()},
        "videos": [
            {"path": video.path.as_posix(), "prompt": video.prompt, **score._asdict()}
            for video, score in zip(videos, scores, strict=True)
        ],
        "published": {name: score._asdict() for name, score in PUBLISHED.items()},
    }


def scores_as_rows(videos: Sequence[EditedVideo], scores: Sequence[ClipScores]) -> list[list[str]]:
    """Table rows: each video, their mean ± standard deviation, and the published scores, labelled as such."""
    rows = [
        [video.prompt.replace("|", "\\|"), *(f"{score:.2f}" for score in of)]
        for video, of in zip(videos, scores, strict=True)
    ]
    spread = [f"{np.mean(column):.2f} ± {_std(column):.2f}" for column in zip(*scores, strict=True)]
    published = [[f"{name} (published)", *(f"{score:.2f}" for score in of)] for name, of in PUBLISHED.items()]
    return [*rows, [f"**these {len(videos)} videos**", *spread], *published]


def _std(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
