"""What the host's nodes that save and merge MODELs make of ours."""

import pytest
import torch
from safetensors.torch import load_file

from tests.golden import worst
from tests.host.inprocess import core, inputs, miniature, pack, predict
from tests.host.test_parity import diffusers_twin, tuned_weights


@pytest.fixture(scope="module")
def sd():
    return miniature()


@pytest.fixture(scope="module")
def weights(sd):
    return tuned_weights(diffusers_twin(sd.model))


def saved(node: str, sd, model, folder) -> dict | None:
    """The tensors that a node saves; None if it saves no file."""
    node = getattr(core("comfy_extras.nodes_model_merging"), node)()
    node.output_dir = str(folder)
    more = {"clip": sd.clip, "vae": sd.vae} if "Checkpoint" in type(node).__name__ else {}
    with torch.inference_mode():
        node.save(model, filename_prefix="saved", **more)
    (file,) = folder.iterdir()
    tensors = load_file(file)
    file.unlink()
    return tensors


@pytest.mark.parametrize("node", ["CheckpointSave", "ModelSave"])
def test_a_tuned_model_is_not_saved_as_a_checkpoint_and_any_other_is(sd, weights, node, tmp_path):
    """Also behind a LoRA; and the base can be saved before and after."""
    host, before = pack("nodes.host.inflate"), saved(node, sd, sd.model, tmp_path)
    tuned = host.with_tuned(sd.model, weights)
    later = tuned.clone()
    later.add_patches({"diffusion_model.out.0.weight": (torch.ones(64),)})
    for model in (tuned, later):
        with pytest.raises(ValueError, match="Save Tuned Weights, and connect the MODEL from before tuning"):
            saved(node, sd, model, tmp_path)
    assert not list(tmp_path.iterdir())
    for model in (sd.model, host.inflate(sd.model), host.without_tuned(tuned), host.with_tuned(sd.model, weights, 0.0)):
        after = saved(node, sd, model, tmp_path)
        assert before.keys() == after.keys()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def merge(node: str, *given):
    with torch.inference_mode():
        return getattr(core("comfy_extras.nodes_model_merging"), node)().merge(*given)[0]


def test_merging_a_tuned_model_into_another_copies_nothing_of_its_tuning(sd, weights):
    """Half of it, the query differences without temporal attention, would be neither base nor tuned."""
    given, tuned = inputs(sd.model), pack("nodes.host.inflate").with_tuned(sd.model, weights)
    merged = merge("ModelMergeSimple", sd.model, tuned, 0.3)
    assert worst(predict(merged, *given), predict(sd.model, *given)) < 1e-5


def test_merging_another_model_into_a_tuned_one_changes_its_base_and_leaves_its_tuning(sd, weights, tmp_path):
    host, given, other = pack("nodes.host.inflate"), inputs(sd.model), sd.model.clone()
    query = next(name for name in sd.model.model.state_dict() if name.endswith("attn1.to_q.weight"))
    width = len(sd.model.model.state_dict()[query])
    other.add_patches({query: (torch.randn(width, width, generator=torch.Generator().manual_seed(0)),)})
    merged = merge("ModelMergeSimple", host.with_tuned(sd.model, weights), other, 0.3)
    expected = host.with_tuned(merge("ModelMergeSimple", sd.model, other, 0.3), weights)
    assert worst(predict(merged, *given), predict(expected, *given)) < 1e-5
    assert worst(predict(merged, *given), predict(host.with_tuned(sd.model, weights), *given)) > 1e-3
    with pytest.raises(ValueError, match="Save Tuned Weights"):
        saved("ModelSave", sd, merged, tmp_path)
