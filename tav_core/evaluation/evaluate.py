"""Measures variants of the method on clips of the drawn world, one clip and one variant at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..demo.settings import Settings
from ..video.contact_sheet import contact_sheet
from ..world.draw import draw_clip
from ..world.judge import Judge
from ..world.protocol import WorldClip
from .judging import Figures, figures
from .references import CEILING, FLOOR
from .sampling import sample_variants
from .variants import Variant


@dataclass(frozen=True, eq=False)
class Outcome:
    """One variant's videos of one clip, or a reference's, and its figures. Frames are (f, 128, 128, 3) in 0..1."""

    clip: WorldClip
    variant: str
    source: Tensor
    edits: list[Tensor]
    reconstruction: Tensor | None
    figures: Figures

    @property
    def is_reference(self) -> bool:
        return self.variant in CEILING | FLOOR


def evaluate(
    checkpoint: Checkpoint,
    clips: Sequence[WorldClip],
    variants: Mapping[str, Variant],
    settings: Settings,
    *,
    seed: int = 0,
    work: Path | None = None,
) -> Iterator[Outcome]:
    """Yields the outcome of each clip and variant as soon as it is ready, after those of the clip's references.

    work: a folder for the samples, so that an interrupted run resumes, and for a contact sheet of each outcome.
    """
    for clip in clips:
        source = torch.from_numpy(draw_clip(clip.scenes(settings.frames))).float() / 255
        judges = [Judge(edit, settings.frames) for edit in clip.edits]
        for name, reference in (CEILING | FLOOR).items():
            edits = [reference(judge, source, checkpoint) for judge in judges]
            yield Outcome(clip, name, source, edits, None, figures(judges, source, edits, None))
        for name, samples in sample_variants(checkpoint, clip, variants, settings, seed=seed, work=work):
            edits = [checkpoint.decode_video(latents[None]) for latents in samples.edits]
            latents = samples.reconstruction
            reconstruction = None if latents is None else checkpoint.decode_video(latents)
            measured = figures(judges, source, edits, reconstruction)
            measured[""] = measured.get("", {}) | {"seconds": samples.seconds}
            outcome = Outcome(clip, name, source, edits, reconstruction, measured)
            if work:
                contact_sheet(work / f"{clip.name}.{name}.png", _rows(outcome, judges))
            yield outcome


def _rows(outcome: Outcome, judges: Sequence[Judge]) -> list[tuple[str, Tensor]]:
    rows = [(f"source: {outcome.clip.prompt}", outcome.source)]
    if outcome.reconstruction is not None:
        rows.append((f"reconstruction, {outcome.figures['']['reconstruction_psnr']:.1f} dB", outcome.reconstruction))
    for judge, frames in zip(judges, outcome.edits, strict=True):
        measured = outcome.figures[judge.edit.kind]
        rows.append((f"{judge.edit.prompt}: IoU {measured['iou']:.2f}", frames))
    return rows
