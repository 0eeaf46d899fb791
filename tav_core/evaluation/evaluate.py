"""Measures variants of the method on clips of the drawn world, one clip and one variant at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..demo.settings import Settings
from ..demo.world import draw_clip
from ..video.contact_sheet import contact_sheet
from .judging import figures
from .protocol import WorldClip
from .sampling import sample_variants
from .variants import Variant


@dataclass(frozen=True, eq=False)
class Outcome:
    """One variant's videos of one clip, and its figures. Frames are (f, 128, 128, 3) in 0..1."""

    clip: WorldClip
    variant: str
    source: Tensor
    edits: list[Tensor]
    reconstruction: Tensor | None
    figures: dict[str, float]


def evaluate(
    checkpoint: Checkpoint,
    clips: Sequence[WorldClip],
    variants: Mapping[str, Variant],
    settings: Settings,
    *,
    seed: int = 0,
    work: Path | None = None,
) -> Iterator[Outcome]:
    """Yields the outcome of each clip and variant as soon as it is ready.

    work: a folder for the samples, so that an interrupted run resumes, and for a contact sheet of each outcome.
    """
    for clip in clips:
        source = torch.from_numpy(draw_clip(clip.scenes(settings.frames))).float() / 255
        for name, samples in sample_variants(checkpoint, clip, variants, settings, seed=seed, work=work):
            edits = [checkpoint.decode_video(latents[None]) for latents in samples.edits]
            latents = samples.reconstruction
            reconstruction = None if latents is None else checkpoint.decode_video(latents)
            measured = figures(clip, source, edits, reconstruction) | {"seconds": samples.seconds}
            outcome = Outcome(clip, name, source, edits, reconstruction, measured)
            if work:
                contact_sheet(work / f"{clip.name}.{name}.png", _rows(outcome))
            yield outcome


def _rows(outcome: Outcome) -> list[tuple[str, Tensor]]:
    rows = [(f"source: {outcome.clip.prompt}", outcome.source)]
    if outcome.reconstruction is not None:
        rows.append((f"reconstruction, {outcome.figures['reconstruction_psnr']:.1f} dB", outcome.reconstruction))
    return rows + [(edit.prompt, frames) for edit, frames in zip(outcome.clip.edits, outcome.edits, strict=True)]
