"""Runs of One-Shot Tune, kept on disk: interrupted ones resume, finished ones are not repeated.

A run is a folder in models/tune_a_video/.runs: its inputs, and either the state to resume from or the result.
ComfyUI may empty its cache at any time, and empties its temp folder at start and exit, so neither can hold runs.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...tav_core.errors import TavError
from ...tav_core.files import ensure_writable, read_metadata, read_tensors, write_tensors
from ...tav_core.fingerprints import key_of
from ...tav_core.tuned import TunedWeights

FORMAT = "tune-a-video/run-inputs/1"
KEPT = 5
"""How many runs are kept, the latest used."""
DAY = 24 * 60 * 60
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

    @property
    def state(self) -> Path:
        return self.folder / "state.safetensors"

    @property
    def _result(self) -> Path:
        return self.folder / "result.safetensors"

    @property
    def has_progress(self) -> bool:
        return self._inputs.exists() and (self.state.exists() or self._result.exists())

    def result(self) -> tuple[TunedWeights, list[float]] | None:
        """The weights of a finished run, and the loss of each step."""
        if not self._result.exists():
            return None
        try:
            tuned = TunedWeights.load(self._result)
        except TavError:  # damaged: tune again
            return None
        more = dict(tuned.facts.more)
        if not (losses := more.pop("losses", None)):
            return None
        return replace(tuned, facts=replace(tuned.facts, more=more)), losses

    def finish(self, tuned: TunedWeights, losses: list[float]) -> None:
        """Saves the result, and only then deletes the state (three times as large) and partly written files."""
        facts = replace(tuned.facts, more=tuned.facts.more | {"losses": losses})
        replace(tuned, facts=facts).save(self._result)
        for file in self.folder.iterdir():
            if file not in (self._inputs, self._result):
                file.unlink()


def open_run(root: Path, settings: dict, inputs: Mapping[str, Tensor]) -> Run:
    """The kept run with these settings and inputs, or a new one; deletes old runs, and those without progress.

    Inputs are compared, not hashed, since encoding the same clip with another number of threads changes its last
    digits. A run resumes with the inputs it started with.
    """
    ensure_writable(root)
    settings = json.loads(json.dumps(settings))
    folders = sorted((f for f in root.iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime, reverse=True)
    for folder in folders:
        if (run := _opened(folder)) and _settings(folder) == settings and _alike(run.inputs, inputs):
            os.utime(folder)
            return run
    worth_keeping = [folder for folder in folders if Run(folder, {}).has_progress]
    for folder in worth_keeping[KEPT - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)
    for folder in set(folders) - set(worth_keeping):
        if time.time() - folder.stat().st_mtime > DAY:  # another server may just have started a newer one
            shutil.rmtree(folder, ignore_errors=True)
    name = key_of(*inputs.values(), settings=settings)[:32]
    run = Run(root / name, {name: tensor.to("cpu", torch.float32, copy=True) for name, tensor in inputs.items()})
    write_tensors(run._inputs, run.inputs, FORMAT, settings)
    return run


def _opened(folder: Path) -> Run | None:
    try:
        return Run(folder, read_tensors(folder / "inputs.safetensors", FORMAT)[0])
    except TavError:
        return None


def _settings(folder: Path) -> dict:
    return read_metadata(folder / "inputs.safetensors", FORMAT)


def _alike(kept: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> bool:
    return kept.keys() == inputs.keys() and all(
        kept[name].shape == tensor.shape and _distance(kept[name], tensor) < TOLERANCES.get(name, 1e-3)
        for name, tensor in inputs.items()
    )


def _distance(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the root mean square: prompt embeddings have a few outliers."""
    return ((one - other.float().cpu()).abs().max() / one.square().mean().sqrt().clamp_min(1e-10)).item()
