"""Runs of One-Shot Tune, kept on disk: stopped ones resume, finished ones go on where they ended, none is repeated.

A run is a folder in models/tune_a_video/.runs: its inputs, the state of its last step, and the weights after each
number of steps asked for. ComfyUI may empty its cache at any time, and empties its temp folder at start and exit, so
neither can hold runs.
"""

import contextlib
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...tav_core.errors import TavError, shown
from ...tav_core.files import ensure_writable, locked, read_metadata, read_tensors, without_numbers, write_tensors
from ...tav_core.fingerprints import key_of
from ...tav_core.resume import steps_kept_in
from ...tav_core.tuned import TunedWeights

FORMAT = "tune-a-video/run-inputs/1"
LIMIT, DEFAULT_LIMIT = "TUNE_A_VIDEO_RUNS_GB", 20.0
"""The environment variable that says how many GB all runs may take together, and what holds without it."""
RESULT = re.compile(r"weights-(\d{6,9})\.safetensors")
HOUR, FORTNIGHT = 60 * 60, 14 * 24 * 60 * 60
TOLERANCES = {"latents": 0.05}
"""How far inputs may differ, relative to their root mean square; 0.001 for others. A VAE in bf16 has steps of 1/64."""


@dataclass(frozen=True)
class Run:
    """One run. name: its fingerprint. inputs: the tensors it started with."""

    folder: Path
    inputs: dict[str, Tensor]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def _inputs(self) -> Path:
        return self.folder / "inputs.safetensors"

    def state(self, num_steps: int) -> Path:
        """The file that a tuning of so many steps resumes from: the run's own, unless that is beyond them already."""
        own = self.folder / "state.safetensors"
        return own if self._steps_in(own) <= num_steps else self.folder / "shorter-state.safetensors"

    def result(self, num_steps: int) -> tuple[TunedWeights, list[float]] | None:
        """The weights after so many steps, and the loss of each step; None if they are not kept."""
        path = self._weights(num_steps)
        if not path.exists():
            return None
        try:
            tuned = TunedWeights.load(path)
        except TavError:  # damaged: tune again
            return None
        more = dict(tuned.facts.more)
        if not (losses := more.pop("losses", None)):
            return None
        return replace(tuned, facts=replace(tuned.facts, more=more)), losses

    def keep(self, tuned: TunedWeights, losses: list[float]) -> None:
        """Saves the weights after so many steps as there are losses."""
        facts = replace(tuned.facts, more=tuned.facts.more | {"losses": losses})
        replace(tuned, facts=facts).save(self._weights(len(losses)))

    def finish(self, tuned: TunedWeights, losses: list[float]) -> None:
        """Saves the result, then deletes partly written files, and other runs if all take too much space."""
        self.keep(tuned, losses)
        for file in self.folder.iterdir():
            if file.name not in ("inputs.safetensors", "state.safetensors") and not RESULT.fullmatch(file.name):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        make_room(self.folder.parent, self.folder)

    @property
    def steps(self) -> int:
        """The most steps that the run has done and kept."""
        finished = [int(found[1]) for path in self.folder.iterdir() if (found := RESULT.fullmatch(path.name))]
        return max([self._steps_in(self.folder / "state.safetensors"), *finished])

    def _weights(self, num_steps: int) -> Path:
        return self.folder / f"weights-{num_steps:06}.safetensors"

    @staticmethod
    def _steps_in(state: Path) -> int:
        try:
            return steps_kept_in(state)
        except TavError:  # damaged: said where it is opened
            return 0


def open_run(root: Path, settings: dict, inputs: Mapping[str, Tensor]) -> Run:
    """The kept run with these settings and inputs, or a new one.

    Inputs are compared, not hashed, since encoding the same clip with another number of threads changes its last
    digits. A run goes on with the inputs it started with.
    """
    ensure_writable(root)
    limit_in_bytes()  # raises TavError, which should not come only when the run ends
    settings = json.loads(json.dumps(settings))
    for folder in sorted(_folders(root), key=_unused):
        if (run := _opened(folder, settings)) and _alike(run.inputs, inputs):
            with contextlib.suppress(FileNotFoundError):  # another server has just deleted it
                os.utime(folder)
                return run
    name = key_of(*inputs.values(), settings=settings)[:32]
    run = Run(root / name, {name: tensor.to("cpu", torch.float32, copy=True) for name, tensor in inputs.items()})
    write_tensors(run._inputs, run.inputs, FORMAT, settings)
    make_room(root, run.folder)
    return run


def make_room(root: Path, current: Path) -> None:
    """Deletes the runs that are worth least until all fit the limit, and those of other times without a step.

    A run is worth the more, the more steps it has done on the larger clip; half as much after a fortnight without use.
    Never deletes the current one, or one that was touched within the hour, which another server may be at.
    """
    sizes = {folder: _size(folder) for folder in _folders(root)}
    old = [folder for folder in sizes if folder != current and _unused(folder) > HOUR]
    worth = {folder: _worth(folder) for folder in old}
    for folder in sorted(old, key=worth.get):
        if worth[folder] and sum(sizes.values()) <= limit_in_bytes():
            return
        with contextlib.suppress(TavError), locked(folder, "The run"):  # not one that another server is at
            logging.info("Tune-A-Video: deleting the kept run %s, %.2f GB.", folder.name, sizes.pop(folder) / 1e9)
            shutil.rmtree(folder, ignore_errors=True)


def limit_in_bytes() -> float:
    """How many bytes all runs may take together."""
    text = os.environ.get(LIMIT, "").strip()
    try:
        limit = float(text or DEFAULT_LIMIT)
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise TavError(f"{LIMIT} is {shown(text)}; set it to a number of gigabytes, such as {DEFAULT_LIMIT:g}.")
    return limit * 1e9


# Other servers may write to a run, or delete it, at any time.


def _size(folder: Path) -> int:
    """The bytes of a run's files."""
    size = 0
    with contextlib.suppress(FileNotFoundError):
        for file in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                size += file.stat().st_size
    return size


def _unused(folder: Path) -> float:
    """For how many seconds a run has not been used; 0 if it is gone."""
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _worth(folder: Path) -> float:
    try:
        clip = (folder / "inputs.safetensors").stat().st_size
        return Run(folder, {}).steps * clip * 0.5 ** (_unused(folder) / FORTNIGHT)
    except FileNotFoundError:
        return 0.0


def _folders(root: Path) -> list[Path]:
    return [folder for folder in root.iterdir() if folder.is_dir()]


def _opened(folder: Path, settings: dict) -> Run | None:
    """The run in a folder; None if it has other settings, or is damaged."""
    path = folder / "inputs.safetensors"
    try:
        if read_metadata(path, FORMAT) != settings:
            return None
        inputs, _ = read_tensors(path, FORMAT)
    except (TavError, FileNotFoundError):
        return None
    return None if without_numbers(inputs) else Run(folder, {name: tensor.float() for name, tensor in inputs.items()})


def _alike(kept: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> bool:
    return kept.keys() == inputs.keys() and all(
        kept[name].shape == tensor.shape and _distance(kept[name], tensor) < TOLERANCES.get(name, 1e-3)
        for name, tensor in inputs.items()
    )


def _distance(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the root mean square: prompt embeddings have a few outliers."""
    return ((one - other.float().cpu()).abs().max() / one.square().mean().sqrt().clamp_min(1e-10)).item()
