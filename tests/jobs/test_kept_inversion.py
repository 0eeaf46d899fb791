"""Kept inversions and samples are reused only if they are whole."""

import pytest
import torch

from tav_core.evaluation.sampling import FORMAT as SAMPLES
from tav_core.evaluation.sampling import Samples
from tav_core.files import write_tensors
from tav_core.jobs.kept_inversion import FORMAT as INVERSION
from tav_core.jobs.kept_inversion import Inversion

CLIP = (4, 2, 8, 8)
CHANGES = {
    "missing": lambda tensor: None,
    "cut": lambda tensor: tensor[..., :4].clone(),
    "flat": lambda tensor: tensor.flatten(),
    "NaN": lambda tensor: torch.full_like(tensor, torch.nan),
    "whole numbers": lambda tensor: tensor.int(),
}


def changed(tensors: dict, name: str, change: str) -> dict:
    return {key: t for key, t in (tensors | {name: CHANGES[change](tensors[name])}).items() if t is not None}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["trajectory", "reconstruction"])
def test_an_inversion_that_is_not_whole_is_made_again(tmp_path, name, change):
    tensors = {"trajectory": torch.zeros(3, 1, *CLIP), "reconstruction": torch.zeros(1, *CLIP)}
    Inversion(**tensors).save(tmp_path / "file", "key")
    assert Inversion.load(tmp_path / "file", "key")
    write_tensors(tmp_path / "file", changed(tensors, name, change), INVERSION, {"key": "key"})
    assert Inversion.load(tmp_path / "file", "key") is None


@pytest.mark.parametrize("change", CHANGES)
def test_samples_that_are_not_whole_are_made_again(tmp_path, change):
    tensors = {"edits": torch.zeros(2, *CLIP), "reconstruction": torch.zeros(1, *CLIP)}
    Samples(**tensors, seconds=1.0).save(tmp_path / "file", "key")
    assert Samples.load(tmp_path / "file", "key")
    for kept in (changed(tensors, "edits", change), tensors):
        metadata = {"key": "key", "seconds": "1 s" if kept is tensors else 1.0}
        write_tensors(tmp_path / "file", kept, SAMPLES, metadata)
        assert Samples.load(tmp_path / "file", "key") is None
