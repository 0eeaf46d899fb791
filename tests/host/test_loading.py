"""A MODEL of ours loaded in part, as on a small GPU, and compiled: it computes what it computes whole."""

import pytest
import torch

from tests.golden import worst
from tests.host.inprocess import core, inputs, miniature, pack, predict
from tests.host.test_parity import diffusers_twin, empty_model, tuned_weights
from tests.random_checkpoint import TINY_UNET

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def sd():
    return miniature()


@pytest.fixture(scope="module")
def weights(sd):
    return tuned_weights(diffusers_twin(sd.model))


@pytest.mark.parametrize("memory", [0, 3])
def test_a_model_loaded_in_part_predicts_the_same(sd, weights, memory, monkeypatch):
    """On a CPU the host never loads so by itself; `memory`, in MB, is what it is made to keep loaded."""
    model, manage = pack("nodes.host.inflate").with_tuned(sd.model, weights), core("comfy.model_management")
    given = inputs(sd.model)
    plain, whole = (predict(each, *given) for each in (sd.model, model))
    manage.unload_all_models()

    def load_in_part(models, *_args, **_kwargs):
        for each in models:
            each.patch_model(torch.device("cpu"), lowvram_model_memory=memory * MEGABYTE + 1)

    with monkeypatch.context() as patched:
        patched.setattr(manage, "load_models_gpu", load_in_part)
        in_part = predict(model, *given)
    try:
        assert model.model.model_lowvram
        assert worst(in_part, whole) < 1e-5
    finally:
        for each in (model, *model.get_additional_models()):
            each.detach()
    assert worst(predict(sd.model, *given), plain) < 1e-6
    assert worst(predict(model, *given), whole) < 1e-6


@pytest.fixture(scope="module")
def one_level():
    """A MODEL of one level, for the compiler takes seconds for each block."""
    torch.manual_seed(0)
    levels = {"block_out_channels": [32], "down_block_types": ["CrossAttnDownBlock2D"]}
    model = empty_model(TINY_UNET | levels | {"up_block_types": ["CrossAttnUpBlock2D"]})
    for parameter in model.model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("compiled_first", [True, False])
def test_a_compiled_model_predicts_the_same_for_each_strength_and_number_of_frames(one_level, compiled_first):
    """Behind or before TorchCompileModel, whose wrapper this is; the back end needs no C compiler."""
    host, compiled = pack("nodes.host.inflate"), core("comfy_api.torch_helpers").set_torch_compile_wrapper
    weights = tuned_weights(diffusers_twin(one_level))
    model, counted = one_level.clone(), torch._dynamo.utils.counters["frames"]
    torch._dynamo.reset()
    before = counted["ok"]
    if compiled_first:
        compiled(model=model, backend="eager", options=None)
    # compiled behind, each MODEL has a wrapper of its own
    for strength, frames in [(1.0, 3), (0.3, 2)] if compiled_first else [(0.3, 2)]:
        one = host.with_tuned(model, weights, strength)
        if not compiled_first:
            compiled(model=one, backend="eager", options=None)
        given = inputs(one_level, frames)
        assert worst(predict(one, *given), predict(host.with_tuned(one_level, weights, strength), *given)) < 1e-5
    assert counted["ok"] > before
