"""An edit that is ready to run: inverts the clip once, samples a video for each prompt, and writes a manifest."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..control import Control
from ..ddim import invert, sample, source_path
from ..errors import Overflowed, TavError
from ..files import atomic_path, locked, remove_leftovers, staged
from ..inflate import InflatedUNet
from ..metrics import decibels
from ..prediction import NoisePredictor
from ..progress import counted
from ..prompt import Prompt
from ..source import SourcePath
from ..steps import INVERSIONS
from ..video.contact_sheet import contact_sheet, shown_frames
from ..video.pixels import to_float
from ..video.read import Clip
from ..video.sound import Sound
from ..video.write import write_video
from ..windows import windowed
from .base import MemoryPlan, versions
from .edit_config import EditConfig
from .keeping import Keeping
from .kept_inversion import Inversion
from .made_with import MANIFEST, made_with
from .names import file_names
from .selection import Selection

INVERSION, RECONSTRUCTION, SHEET = "inversion.safetensors", "reconstruction", "sheet.png"


@dataclass(frozen=True)
class Edit:
    """A prompt and the video sampled for it."""

    prompt: str
    path: Path
    seconds: float


@dataclass(frozen=True)
class EditReport:
    """What an edit wrote. psnr: of the reconstruction against the source frames, in dB; None without an inversion."""

    edits: list[Edit]
    psnr: float | None
    sheet: Path
    manifest: Path


@dataclass(eq=False)
class EditRun:
    """An edit that is ready to run, made by `prepare_edit`.

    kept: the inversion from an earlier edit in `folder`, if clip, weights and settings are the same.
    sound: what one hears while the clip's frames are shown, for the videos; None if nothing.
    used: the LoRAs, controls and mask, as JSON holds them. encoded: each prompt's embeddings, (1, n, d), by prompt.
    notes: warnings for the user.
    """

    selection: Selection
    clip: Clip
    checkpoint: Checkpoint
    unet: InflatedUNet
    sound: Sound | None
    latents: Tensor
    encoded: dict[str, Prompt]
    prompts: Sequence[str]
    config: EditConfig
    folder: Path
    sources: dict[str, Path]
    used: dict[str, list[dict] | dict | None]
    controls: tuple[Control, ...]
    keeping: Keeping
    key: str
    kept: Inversion | None
    memory: MemoryPlan
    notes: list[str]
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, on_step: Callable | None = None) -> EditReport:
        """Inverts the clip or reuses the kept inversion, samples each prompt, and writes videos, sheet and manifest.

        on_step: called as (step, total, part=, timestep=, latents=) after each DDIM step; part is "inversion",
            "reconstruction" or the prompt. Then as (step, total, part="writing") after each frame of a video.

        Raises TavError if another process writes into the same folder.
        """
        with locked(self.folder, f"The folder {self.folder}"):
            for name in (INVERSION, "staged"):
                remove_leftovers(self.folder / name)
            try:
                with staged(self.folder, last=MANIFEST) as staging:
                    return self._run(staging, on_step)
            except Overflowed as error:
                raise TavError(
                    f"The network overflowed {self.unet.dtype}; use precision bf16 or no instead."
                ) from error

    def _run(self, staging: Path, on_step: Callable | None) -> EditReport:
        rows, psnr, path, mask = [("source", self.clip.frames)], None, None, None
        if self.config.from_inversion:
            inversion = self._inversion(on_step)
            with self._timed("reconstruction"):
                frames, psnr = self._write(inversion.reconstruction, RECONSTRUCTION, staging, on_step)
            rows.append((f"reconstruction, {psnr:.1f} dB", frames))
            path = source_path(
                inversion.trajectory.to(self.latents), self.checkpoint.scheduler, self.config.inversion_steps
            )
            with self._timed("mask"):
                mask = self.keeping.mask_on(path, self._source(), self.config.windows)
            if mask is not None:
                rows.append(("mask", _shown(mask, frames.shape[1:3])))
        edits = []
        taken = [RECONSTRUCTION, *(path.stem for path in self.sources.values())]
        for prompt, name in zip(self.prompts, file_names(self.prompts, taken=taken), strict=True):
            began = time.perf_counter()
            comment = made_with(prompt, self.config, self.sources["weights"])
            edited = self._edited(prompt, path, mask, on_step)
            frames, _ = self._write(edited, name, staging, on_step, comment=comment)
            edits.append(Edit(prompt, self.folder / f"{name}.mp4", time.perf_counter() - began))
            rows.append((prompt, frames))
        with self._timed("sheet"):
            contact_sheet(staging / SHEET, rows)
        report = EditReport(edits, psnr, self.folder / SHEET, self.folder / MANIFEST)
        with atomic_path(staging / MANIFEST) as temporary:
            temporary.write_text(json.dumps(self._manifest(report), indent=2) + "\n", encoding="utf-8")
        return report

    def _inversion(self, on_step: Callable | None) -> Inversion:
        if self.kept:
            return self.kept
        predict_noise = windowed(self._predictor(self.config.inversion_prompt), self.config.windows)
        steps = self.config.inversion_steps
        scheduler = self.checkpoint.scheduler
        with self._timed("inversion"):
            on_inversion = on_step and partial(on_step, part="inversion")
            refinements = INVERSIONS[self.config.invert_with]
            trajectory = invert(
                predict_noise, self.latents, scheduler, steps, refinements=refinements, on_step=on_inversion
            )
        with self._timed("reconstruction"):
            on_reconstruction = on_step and partial(on_step, part="reconstruction")
            reconstruction = sample(predict_noise, trajectory[-1], scheduler, steps, on_step=on_reconstruction)
        inversion = Inversion(trajectory, reconstruction)
        inversion.save(self.folder / INVERSION, self.key)
        return inversion

    def _edited(self, prompt: str, path: SourcePath | None, mask: Tensor | None, on_step: Callable | None) -> Tensor:
        # on the CPU, so that every device draws the same noise
        generator = torch.Generator().manual_seed(self.config.seed)
        if path is None:
            noise = torch.randn(self.latents.shape, generator=generator).to(self.latents.device)
        else:
            noise = path.trajectory[-1]
        cond, uncond = self._predictor(prompt), self._predictor(self.config.negative_prompt)
        scheduler, steps = self.checkpoint.scheduler, self.config.num_steps
        scale = self.config.guidance_scale
        with self.keeping.guided(cond, uncond, scale, prompt, path, self._source()) as predict_noise:
            return sample(
                windowed(predict_noise, self.config.windows),
                noise,
                scheduler,
                steps,
                eta=self.config.eta,
                generator=generator,
                source=path,
                mask=mask,
                on_step=on_step and partial(on_step, part=prompt),
            )

    def _source(self) -> NoisePredictor | None:
        prompt = self.keeping.source_prompt
        return None if prompt is None else self._predictor(prompt)

    def _predictor(self, prompt: str) -> NoisePredictor:
        return NoisePredictor(self.unet, self.encoded[prompt], self.checkpoint.scheduler, self.controls)

    def _write(
        self, latents: Tensor, name: str, staging: Path, on_step: Callable | None, *, comment: str = ""
    ) -> tuple[Tensor, float]:
        """Decodes latents and writes them as a video, frame by frame.

        Returns the frames that a contact sheet shows, and the PSNR of all against the clip, in dB.

        A video that replaces an older one waits in `staging` for the manifest that describes it; others are there as
        soon as they are done.
        """
        errors, kept, file = [], [], f"{name}.mp4"
        remove_leftovers(self.folder / file)
        target = (staging if (self.folder / file).exists() else self.folder) / file
        decoded = counted(self.checkpoint.decoded_frames(latents), latents.shape[2], on_step, "writing")
        write_video(target, self._watched(decoded, errors, kept), self.clip.fps, comment=comment, sound=self.sound)
        return torch.stack(kept), decibels(float(np.mean(errors)))

    def _watched(self, frames: Iterator[Tensor], errors: list[float], kept: list[Tensor]) -> Iterator[Tensor]:
        """Passes frames on; notes each one's mean squared error against the clip, and keeps what a sheet shows."""
        chosen = shown_frames(len(self.clip.frames))
        for number, frame in enumerate(frames):
            errors.append((frame - to_float(self.clip.frames[number])).square().mean().item())
            if number in chosen:
                kept.append(frame)
            yield frame

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began

    def _manifest(self, report: EditReport) -> dict:
        """Everything needed to reproduce the edit; paths are relative to the folder."""
        sources = {name: _relative(path, self.folder) for name, path in self.sources.items()}
        inverted = self.config.from_inversion
        return {
            **sources,
            **self.used,
            "selection": self.selection.as_metadata() | {"by_time": self.clip.by_time, "fps": self.clip.fps},
            "settings": asdict(self.config) | {"device": str(self.latents.device), "dtype": str(self.unet.dtype)},
            "prediction_type": self.checkpoint.scheduler.config.prediction_type,
            "inversion": {"path": INVERSION, "reused": self.kept is not None} if inverted else None,
            "reconstruction": f"{RECONSTRUCTION}.mp4" if inverted else None,
            "reconstruction_psnr": report.psnr,
            "edits": [
                {
                    "prompt": edit.prompt,
                    "path": edit.path.name,
                    "seed": self.config.seed,
                    "seconds": round(edit.seconds, 3),
                }
                for edit in report.edits
            ],
            "sheet": SHEET,
            "seconds": {part: round(seconds, 3) for part, seconds in self.seconds.items()},
            "versions": versions(),
        }


def _shown(mask: Tensor, size: Sequence[int]) -> Tensor:
    """A mask (1, 1, f, h, w) as grey frames of the size (height, width), those that a contact sheet shows."""
    chosen = rearrange(mask, "1 1 f h w -> f 1 h w")[shown_frames(mask.shape[2])]
    return repeat(F.interpolate(chosen, tuple(size)).cpu(), "f 1 h w -> f h w 3")


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive, under Windows
        return path.absolute().as_posix()
