"""Files of our own: states of runs, tuned weights, kept inversions and samples."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch

from tav_core.cli.app import app
from tav_core.cli.main import main  # noqa: F401  # which registers all commands
from tav_core.evaluation.sampling import FORMAT as SAMPLES
from tav_core.evaluation.sampling import Samples
from tav_core.files import write_tensors
from tav_core.inflate import inflate
from tav_core.jobs.base import ensure_prompt
from tav_core.jobs.editing import selection_as_tuned
from tav_core.jobs.kept_inversion import FORMAT as INVERSION
from tav_core.jobs.kept_inversion import Inversion
from tav_core.resume import FORMAT as STATE
from tav_core.resume import TuneState, damage_in, losses_kept_in, steps_kept_in
from tav_core.tuned import FORMAT as TUNED
from tav_core.tuned import TunedWeights
from tav_core.tuned_facts import missing_names, sibling_note
from tests.fuzz import material
from tests.fuzz.mutations import DEEP, of_bytes, of_header, of_tensors, times
from tests.fuzz.registry import reader


def stored(rng: Random, path: Path, kind: str, tensors: dict, metadata: dict) -> Path:
    """A file of ours: made of changed parts, with a checksum that is right, or with changed bytes."""
    how = rng.randrange(4)
    if how < 2:
        tensors, metadata = times(rng, lambda rng, both: of_tensors(rng, *both), (tensors, metadata))
    kind = kind if rng.random() < 0.9 else rng.choice(("", "x", "tune-a-video/99", "tune-a-video/²", kind + "0"))
    write_tensors(path, tensors, kind, metadata)
    path.write_bytes(material.in_order(path.read_bytes()))
    if DEEP in str(metadata):
        path.write_bytes(path.read_bytes().replace(DEEP.encode(), b"[" * len(DEEP)))
    if how > 1:
        change = of_header if how == 2 else of_bytes
        path.write_bytes(times(rng, change, path.read_bytes()) if how == 3 else change(rng, path.read_bytes()))
    return path


@reader
def state(rng: Random, folder: Path) -> Callable[[], object]:
    layer = torch.nn.Linear(4, 4)
    parameters = {"layer.weight": layer.weight, "layer.bias": layer.bias}
    tensors = {"generator": torch.Generator().get_state()}
    for name, parameter in parameters.items():
        zeros = torch.zeros_like(parameter)
        tensors |= {f"parameter.{name}": zeros, f"exp_avg.{name}": zeros.clone(), f"exp_avg_sq.{name}": zeros.clone()}
        tensors[f"step.{name}"] = torch.tensor(2.0)
    metadata = {"run": "run", "step": 2, "losses": [0.1, 0.2], "grad_norms": [1.0, 1.0], "scaler": {}}
    path = stored(rng, folder / "state.safetensors", STATE, tensors, metadata)

    def resume() -> None:
        if damage_in(path) is None:  # as the jobs do, which then start again
            steps_kept_in(path)
            losses_kept_in(path)
        optimizer = torch.optim.AdamW(parameters.values())
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        with TuneState(parameters, optimizer, scaler, torch.Generator(), keep_in=path, run="run"):
            layer(torch.ones(4)).sum().backward()
            optimizer.step()

    return resume


@reader
def tuned_weights(rng: Random, folder: Path) -> Callable[[], object]:
    path = stored(rng, folder / "tuned.safetensors", TUNED, *material.tuned())
    return lambda: use_tuned(path)


def use_tuned(path: Path) -> None:
    """All that is done with a file of tuned weights before anything is sampled."""
    weights = TunedWeights.load(path)
    facts = weights.facts
    for options in ([], ["--json"]):
        shell("info", str(path), *options)
    json.dumps(facts.as_metadata())
    sibling_note(facts, "sd", "1" * 64)
    missing_names(facts.loras, {"b"}, "file")
    missing_names(facts.controls, {"b"}, "network")
    selection = selection_as_tuned(Path("clip.mp4"), facts, {})
    selection.as_metadata()
    ensure_prompt(facts.prompt if isinstance(facts.prompt, str) else "a", "The prompt")
    weights.apply(inflate(copy.deepcopy(material.inflated().unet), facts.inflation))


def shell(*arguments: str) -> None:
    """A command of `tav`; raises what would be a traceback."""
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception


@reader
def inversion(rng: Random, folder: Path) -> Callable[[], object]:
    tensors = {"trajectory": torch.zeros(4, 1, 4, 2, 8, 8), "reconstruction": torch.zeros(1, 4, 2, 8, 8)}
    path = stored(rng, folder / "inversion.safetensors", INVERSION, tensors, {"key": "key"})
    return lambda: (found := Inversion.load(path, "key")) and found.trajectory[-1]


@reader
def samples(rng: Random, folder: Path) -> Callable[[], object]:
    tensors = {"edits": torch.zeros(2, 4, 2, 8, 8), "reconstruction": torch.zeros(1, 4, 2, 8, 8)}
    path = stored(rng, folder / "samples.safetensors", SAMPLES, tensors, {"key": "key", "seconds": 1.0})
    return lambda: Samples.load(path, "key")
