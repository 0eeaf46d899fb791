"""Clips and their sound, folders of images, and masks."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import torch

from tav_core.jobs.control_choice import control_images
from tav_core.jobs.mask_choice import MaskChoice
from tav_core.jobs.selection import Selection
from tav_core.masks import latent_mask
from tav_core.video.read import read_frames
from tav_core.video.sound import Sound, read_sound
from tests.fuzz import material
from tests.fuzz.mutations import of_boxes, of_bytes, of_tensor, times
from tests.fuzz.registry import reader


def selected(rng: Random) -> dict:
    return {
        "size": rng.choice((8, 64, (64, 32))),
        "start": rng.choice((0, 0, 1, 5)),
        "stride": rng.choice((0, 0, 1, 2)),
        "fit": rng.choice(("crop", "pad", "stretch")),
        "at_most": rng.random() < 0.8,
    }


@reader
def clip(rng: Random, folder: Path) -> Callable[[], object]:
    suffix = rng.choice([*material.FORMATS, "webp"])
    data = material.webp() if suffix == "webp" else material.clip(suffix)
    boxed = suffix in ("mp4", "mov") and rng.random() < 0.5
    change = (lambda rng, data: of_boxes(rng, data, material.BOXES)) if boxed else of_bytes
    path = folder / f"clip.{suffix if rng.random() < 0.9 else rng.choice(list(material.FORMATS))}"
    path.write_bytes(times(rng, change, data, 4))
    count, settings = rng.choice((1, 3, 6)), selected(rng)
    return lambda: read_frames(path, count, **settings)


@reader
def sound(rng: Random, folder: Path) -> Callable[[], object]:
    suffix = rng.choice(list(material.SOUNDS))
    path = folder / f"clip.{suffix}"
    path.write_bytes(times(rng, of_bytes, material.sounding(suffix), 4))
    start, seconds = rng.choice((-0.1, 0.0, 0.1, 5.0, 1e12)), rng.choice((0.0, 0.1, 1.0, 1e12))
    return lambda: heard(read_sound(path, start, seconds))


def heard(found: Sound | None) -> None:
    assert found is None or (found.samples.isfinite().all() and found.samples.numel())


@reader
def image_folder(rng: Random, folder: Path) -> Callable[[], object]:
    names = [f"{number}." for number in range(3)]
    if rng.random() < 0.3:
        names[rng.randrange(3)] = rng.choice(("²1.", "1" * 200 + ".", " .", "ｱ９.", "%d.", "a\nb.", "-1.", "٣."))
    broken = rng.randrange(3)
    for number, name in enumerate(names):
        suffix = rng.choice(list(material.PICTURES))
        data = material.picture(suffix, *((64, 48) if rng.random() < 0.9 else (48, 64)))
        (folder / f"{name}{suffix}").write_bytes(times(rng, of_bytes, data) if number == broken else data)
    count, settings = rng.choice((1, 2, 3)), selected(rng)
    return lambda: read_frames(folder, count, **settings)


@reader
def mask(rng: Random, folder: Path) -> Callable[[], object]:
    (folder / "clip.mp4").write_bytes(material.clip("mp4"))
    selection = Selection(folder / "clip.mp4", rng.choice((1, 3, 6)), rng.choice((64, (64, 48))))
    if rng.random() < 0.3:
        given = of_tensor(rng, torch.rand(3, 48, 64))
        frames, size, grow = rng.choice((1, 3, 5)), rng.choice(((8, 6), (8, 8))), rng.choice((0, 1, 600))
        return lambda: latent_mask(given, frames, size, grow)
    suffix = rng.choice(list(material.PICTURES))
    data = material.picture(suffix, *rng.choice(((64, 48), (64, 64), (128, 96))))
    path = folder / f"mask.{suffix}"
    path.write_bytes(times(rng, of_bytes, data) if rng.random() < 0.7 else data)
    if rng.random() < 0.3:
        return lambda: control_images(path, selection, [])
    return lambda: MaskChoice(path).read(selection, [])
