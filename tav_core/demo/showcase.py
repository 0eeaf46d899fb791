"""`tav demo`: draws a clip, tunes the miniature on it, edits it, and compares the edits with ground truth."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..files import atomic_path, ensure_writable
from ..inflation import Inflation
from ..jobs.base import ensure_prompt
from ..jobs.edit_config import EditConfig
from ..jobs.editing import prepare_edit
from ..jobs.selection import Selection
from ..jobs.tuning import prepare_tuning
from ..loss_graph import loss_graph
from ..metrics import trajectory_correlation
from ..source import Dials
from ..tune import TuneConfig
from ..video.pixels import to_uint8
from ..video.read import read_frames
from ..video.write import write_video
from ..world.clips import Clip
from ..world.draw import draw_clip, truth
from ..world.readers import Reading, read_image
from ..world.scene import SIZE, Scene, Thing
from ..world.vocabulary import attributes_in, unknown_words
from .miniature import miniature_path
from .settings import SETTINGS, Settings

SOURCE = Scene((Thing("ball", "red", (0.5, 0.45), 0.13, foot=0.85),), "grass", seed=4)
CLIP = Clip(SOURCE, ("arc",))
FPS = 8
KEEP = Dials(structure=0.8, layout=0.4)  # without them, another object leaves its path (docs/findings.md)
KINDS = {
    "kind": "object",
    "ground": "background",
    "style": "style",
    "colour": "attribute",
}  # by the first attribute that changed
PROMPTS = (
    SOURCE.with_thing(0, colour="yellow", kind="star").caption,
    replace(SOURCE, ground="beach").caption,
    SOURCE.with_thing(0, colour="purple").caption,
    replace(SOURCE, style="cartoon").caption,
)


@dataclass(frozen=True)
class DemoEdit:
    """An edit compared with ground truth.

    kind: "object", "background", "style", "attribute", or "other" if the prompt changes nothing of the world.
    attribute_right: share of frames, 0..1, that show everything the prompt changes; None for "other".
    trajectory_correlation: of the object's centres with those in the clip, -1..1.
    """

    prompt: str
    kind: str
    path: str
    attribute_right: float | None
    trajectory_correlation: float


def run_demo(
    folder: Path,
    prompts: Sequence[str] = PROMPTS,
    *,
    settings: Settings = SETTINGS,
    device: torch.device,
    say: Callable[[str], None] = lambda message: None,
    on_step: Callable | None = None,
) -> dict:
    """Writes clip, tuned weights, a video for each prompt, sheet, loss graph and manifest.json to `folder`.

    say: called with a message before each part. on_step: called as (step, total, part=) after each step of any part.
    An interrupted run resumes. Returns the content of manifest.json. Raises TavError, before any work, if the folder
    cannot be written or a prompt is empty.
    """
    ensure_writable(folder)
    for prompt in prompts:
        ensure_prompt(prompt, "The prompt of an edit")
    began, seconds = time.perf_counter(), {}
    clip, weights = folder / "clip.mp4", folder / "tuned.safetensors"
    scenes = CLIP.scenes(settings.frames)
    write_video(clip, torch.from_numpy(draw_clip(scenes)).float() / 255, FPS)
    seconds["drawing the clip"] = time.perf_counter() - began

    say(f'Tuning the miniature on "{SOURCE.caption}", {settings.tuning_steps} steps.')
    tuning = prepare_tuning(
        Selection(clip, settings.frames, SIZE),
        SOURCE.caption,
        miniature_path(),
        weights,
        config=TuneConfig(num_steps=settings.tuning_steps, learning_rate=settings.learning_rate),
        inflation=Inflation(group_norm=settings.group_norm),
        device=device,
        replace_output=True,
    )

    for note in tuning.notes:
        say(note)
    losses = tuning.run(on_step and partial(on_step, part="tuning")).losses
    with atomic_path(folder / "loss.png") as temporary:
        Image.fromarray(to_uint8(loss_graph(losses))).save(temporary)
    seconds["tuning"] = time.perf_counter() - began - sum(seconds.values())

    say(f"Inverting the clip and sampling {len(prompts)} edits, {settings.steps} steps each.")
    config = EditConfig(
        num_steps=settings.steps,
        inversion_steps=settings.inversion_steps,
        guidance_scale=settings.guidance_scale,
        keep_structure=KEEP.structure,
        keep_layout=KEEP.layout,
    )
    editing = prepare_edit(clip, weights, miniature_path(), prompts, folder, config=config, device=device)
    for note in editing.notes:
        say(note)
    report = editing.run(on_step)
    edits = [measured(edit.prompt, edit.path, scenes) for edit in report.edits]
    manifest = json.loads(report.manifest.read_text(encoding="utf-8"))
    seconds |= {name: manifest["seconds"].get(name, 0.0) for name in ("inversion", "reconstruction")}
    seconds["edits"] = sum(edit.seconds for edit in report.edits)
    total = time.perf_counter() - began
    seconds["the rest"] = total - sum(seconds.values())
    manifest |= {
        "prompt": SOURCE.caption,
        "reconstruction_psnr": report.psnr,
        "edits": [old | asdict(edit) for old, edit in zip(manifest["edits"], edits, strict=True)],
        "losses": [round(loss, 5) for loss in losses],
        "miniature": asdict(settings),
        "unknown_words": unknown_words(" ".join(prompts)),
        "seconds": round(total, 1),
        "parts": {name: round(taken, 1) for name, taken in seconds.items()},
    }
    with atomic_path(report.manifest) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def measured(prompt: str, path: Path, scenes: Sequence[Scene]) -> DemoEdit:
    """Compares the frames of an edit with what its prompt asks for and with where the object is in the clip."""
    frames = read_frames(path, len(scenes), size=SIZE).frames
    readings = [read_image(frame) for frame in to_uint8(frames)]
    before = attributes_in(SOURCE.caption)
    changed = {name: value for name, value in attributes_in(prompt).items() if value != before.get(name)}
    shown = [attributes_of(reading) for reading in readings]
    right = [all(each.get(name) == value for name, value in changed.items()) for each in shown]
    return DemoEdit(
        prompt,
        next((kind for name, kind in KINDS.items() if name in changed), "other"),
        path.name,
        float(np.mean(right)) if changed else None,
        trajectory_correlation([each.get("centre") for each in shown], [truth(scene).centres[0] for scene in scenes]),
    )


def attributes_of(reading: Reading) -> dict:
    """What an image shows, by the names of `attributes_in`: its ground, its style and its largest thing."""
    thing = {name: getattr(reading.things[0], name) for name in ("colour", "kind", "centre")} if reading.things else {}
    return {"ground": reading.ground, "style": reading.style, **thing}
