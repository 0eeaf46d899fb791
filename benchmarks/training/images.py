"""Captioned images of the drawn world, drawn once and kept in the work folder."""

from collections.abc import Callable
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from tav_core.files import atomic_path
from tav_core.world.draw import draw
from tav_core.world.scene import PAPER, Scene, random_scene

from .loop import SEED


def random_scenes(count: int, *, seed: int = 0, **known) -> list[Scene]:
    rng = np.random.default_rng(SEED + seed)
    return [random_scene(rng, **known) for _ in range(count)]


def striped(scene: Scene) -> Scene:
    """The scene with bands across its shapes."""
    for number, thing in enumerate(scene.things):
        scene = scene.with_thing(number, striped=not thing.is_figure)
    return scene


def other_scenes(count: int) -> list[Scene]:
    """What only the LoRA and the sibling draw; the VAE has to know it, too."""
    half = count // 2
    return random_scenes(half, seed=1, style=PAPER) + [striped(scene) for scene in random_scenes(half, seed=1)]


def drawn(path: Path, scenes: list[Scene]) -> Tensor:
    """Images (n, 3, 128, 128), uint8."""
    if not path.exists():
        save(path, in_parallel(draw, scenes).transpose(0, 3, 1, 2))
    return torch.from_numpy(np.load(path))


def in_parallel(draw_one: Callable[[Scene], np.ndarray], scenes: list[Scene]) -> np.ndarray:
    """What a function of the module draws for each scene, stacked; drawn by all cores."""
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if context.get_start_method() == "forkserver":
        # or each process would import them anew, for seconds
        context.set_forkserver_preload(["tav_core.checkpoints.checkpoint", "peft"])
    # one thread each, or they wait for each other
    with context.Pool(initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        return np.stack(pool.map(draw_one, scenes, chunksize=32))


def save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def pixels(batch: Tensor, device: str) -> Tensor:
    """uint8 images as the VAE takes them, in -1..1."""
    return batch.to(device).float() / 127.5 - 1
