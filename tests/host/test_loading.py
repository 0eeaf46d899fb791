"""A MODEL of ours loaded in part, as on a small GPU, and compiled: it computes what it computes whole."""

import pytest
import torch

from tests.golden import worst
from tests.host.assets import CHECKPOINT
from tests.host.inprocess import checkpoint, core, pack, predict
from tests.host.test_parity import diffusers_twin, random, tuned_weights

INPUTS = random(1, 4, 3, 8, 8), torch.tensor([300]), random(1, 77, 768)
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def sd(models):
    return checkpoint(models / "checkpoints" / CHECKPOINT)


@pytest.fixture(scope="module")
def weights(sd):
    return tuned_weights(diffusers_twin(sd.model))


@pytest.mark.parametrize("memory", [0, 40])
def test_a_model_loaded_in_part_predicts_the_same(sd, weights, memory, monkeypatch):
    """On a CPU the host never loads so by itself; `memory`, in MB, is what it is told to keep loaded."""
    model, manage = pack("nodes.host.inflate").with_tuned(sd.model, weights), core("comfy.model_management")
    plain, whole = (predict(each, *INPUTS) for each in (sd.model, model))
    manage.unload_all_models()

    def load_in_part(models, *_args, **_kwargs):
        for each in models:
            each.patch_model(torch.device("cpu"), lowvram_model_memory=memory * MEGABYTE + 1)

    with monkeypatch.context() as patched:
        patched.setattr(manage, "load_models_gpu", load_in_part)
        in_part = predict(model, *INPUTS)
    try:
        assert model.model.model_lowvram
        assert model.lowvram_patch_counter() > 0 or memory
        assert worst(in_part, whole) < 1e-5
    finally:
        for each in (model, *model.get_additional_models()):
            each.detach()
    assert worst(predict(sd.model, *INPUTS), plain) < 1e-6
    assert worst(predict(model, *INPUTS), whole) < 1e-6


@pytest.mark.parametrize("compiled_first", [True, False])
def test_a_compiled_model_predicts_the_same_for_each_strength_and_number_of_frames(sd, weights, compiled_first):
    """Behind or before TorchCompileModel, whose wrapper this is; the back end needs no C compiler."""
    host, compiled = pack("nodes.host.inflate"), core("comfy_api.torch_helpers").set_torch_compile_wrapper
    model, counted = sd.model.clone(), torch._dynamo.utils.counters["frames"]
    torch._dynamo.reset()
    before = counted["ok"]
    if compiled_first:
        compiled(model=model, backend="eager", options=None)
    for strength, frames in ((1.0, 3), (1.0, 2), (0.3, 3)):
        one = host.with_tuned(model, weights, strength)
        if not compiled_first:
            compiled(model=one, backend="eager", options=None)
        inputs = random(1, 4, frames, 8, 8), *INPUTS[1:]
        assert worst(predict(one, *inputs), predict(host.with_tuned(sd.model, weights, strength), *inputs)) < 1e-5
    assert counted["ok"] > before
