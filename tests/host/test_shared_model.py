"""Many MODELs share one set of weights: clones, other nodes' patches, and the base itself stay what they are."""

import gc

import pytest
import torch

from tests.golden import worst
from tests.host.assets import CHECKPOINT, CONTROLNET, LORA
from tests.host.inprocess import checkpoint, core, inputs, miniature, pack, predict
from tests.host.test_parity import core_prediction, diffusers_twin, random, tuned_weights
from tests.host.test_sampling import relative, sampled

EMPTY = {"samples": torch.zeros(3, 4, 8, 8)}


@pytest.fixture(scope="module")
def sd():
    return miniature()


@pytest.fixture(scope="module")
def reduced(models):
    """The checkpoint of Stable Diffusion's layout, for LoRAs and control."""
    return checkpoint(models / "checkpoints" / CHECKPOINT)


@pytest.fixture(scope="module")
def given(sd):
    """What `predict` is called with."""
    return inputs(sd.model)


@pytest.fixture(scope="module")
def weights(sd):
    return tuned_weights(diffusers_twin(sd.model))


@pytest.fixture(scope="module")
def host(sd):
    return pack("nodes.host.inflate")


def hooks_in(model) -> int:
    modules = model.model.diffusion_model.modules()
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


def test_two_inflated_clones_used_in_turn_both_stay_right(sd, host, weights, given):
    one, other = host.with_tuned(sd.model, weights), host.inflate(sd.model, attention="full", group_norm="frame")
    alone = [predict(model, *given) for model in (one, other)]
    in_turn = [predict(model, *given) for model in (one, other, other, one, other, one)]
    assert worst(*alone) > 0.01
    assert [worst(got, alone[i]) < 1e-6 for i, got in zip((0, 1, 1, 0, 1, 0), in_turn, strict=True)] == [True] * 6


def test_two_strengths_of_the_same_weights_do_not_meet(sd, host, weights, given):
    half, whole = (host.with_tuned(sd.model, weights, strength) for strength in (0.5, 1.0))
    first = [predict(model, *given) for model in (half, whole)]
    again = [predict(model, *given) for model in (half, whole)]
    assert worst(*first) > 0.01
    assert all(worst(a, b) < 1e-6 for a, b in zip(first, again, strict=True))


def test_a_clone_that_is_dropped_in_the_middle_of_a_run_takes_nothing_along(sd, host, weights, monkeypatch):
    model, preview = host.with_tuned(sd.model, weights), core("latent_preview")
    undisturbed = sampled(model, sd, EMPTY, 4)

    def drop_a_clone(step, *_):
        clone = model.clone()
        lora_like = {"diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_k.weight": (random(64, 64),)}
        assert clone.add_patches(lora_like, 0.0)
        del clone
        gc.collect()

    monkeypatch.setattr(preview, "prepare_callback", lambda *_: drop_a_clone)
    assert torch.equal(sampled(model, sd, EMPTY, 4), undisturbed)


def test_the_base_model_is_untouched(sd, host, weights):
    """A plain KSampler run gives the same image before, between and after, and meets no call of ours."""

    def plain():
        with torch.inference_mode():
            return (
                core("nodes")
                .KSampler()
                .sample(sd.model, 1, 3, 3.0, "euler", "normal", sd.text("a dog"), sd.text(""), EMPTY)[0]["samples"]
            )

    before, keys = plain(), set(sd.model.model.state_dict())
    model = host.with_tuned(sd.model, weights)
    during = []
    model.model.diffusion_model.out[2].register_forward_hook(lambda *_: during.append(hooks_in(model)))
    try:
        sampled(model, sd, EMPTY, 1)
        ours = during[-1]
        assert torch.equal(plain(), before)
        assert during[-1] == 1  # the test's own
        assert ours > 20
    finally:
        model.model.diffusion_model.out[2]._forward_hooks.clear()
    assert set(sd.model.model.state_dict()) == keys
    assert not sd.model.patches
    assert "tune_a_video" not in str(sd.model.model_options)
    assert hooks_in(sd.model) == 0


def test_nothing_is_left_on_the_model_after_an_error_in_the_middle_of_it(sd, host, weights, given):
    model = host.with_tuned(sd.model, weights)

    def fail(*_):
        raise RuntimeError("in the middle")

    handle = model.model.diffusion_model.middle_block[0].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        predict(model, *given)
    handle.remove()
    assert hooks_in(model) == 0


def test_tuned_weights_on_a_tuned_model_replace_and_leave_loras_alone(reduced, host, models):
    sd, given = reduced, inputs(reduced.model)
    weights, other = (tuned_weights(diffusers_twin(sd.model), seed=seed) for seed in (5, 50))
    lora = sd.with_lora(models / "loras" / LORA)
    expected = predict(host.with_tuned(lora, other), *given)
    twice = host.with_tuned(host.with_tuned(lora, weights), other)
    lora_after = host.with_tuned(sd.with_lora(models / "loras" / LORA, host.with_tuned(sd.model, weights)), other)
    assert worst(predict(twice, *given), expected) < 1e-5
    assert worst(predict(lora_after, *given), expected) < 1e-5
    assert worst(predict(host.with_tuned(twice, other, 0.0), *given), predict(host.inflate(lora), *given)) < 1e-6
    assert worst(predict(host.without_tuned(twice), *given), predict(host.inflate(lora), *given)) < 1e-6


def test_inflating_a_tuned_model_again_changes_its_pattern_and_keeps_its_weights(sd, host, weights, given):
    unet = pack("tav_core.inflate").inflate(
        pack("nodes.host.weights").diffusers_unet(sd.model, torch.device("cpu")), attention="full"
    )
    weights.apply(unet)
    again = host.inflate(host.with_tuned(sd.model, weights), attention="full")
    assert worst(predict(again, *given), core_prediction(unet, *given)) < 1e-4


def patched(model, *names: str):
    """The MODEL behind nodes of the host that patch attention and features."""
    if "PAG" in names:
        model = core("comfy_extras.nodes_pag").PerturbedAttentionGuidance.execute(model, 2.0).result[0]
    if "FreeU" in names:
        model = core("comfy_extras.nodes_freelunch").FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2).result[0]
    if "HyperTile" in names:
        hypertile = core("comfy_extras.nodes_hypertile").HyperTile
        (model,) = hypertile.execute(model, 32, 2, 0, False)  # on the first level; PAG has the middle
    return model


def with_controlnet(sd, models, text="a man is skiing", frames=3):
    net = core("comfy.controlnet").load_controlnet(str(models / "controlnet" / CONTROLNET))
    hint = torch.rand(frames, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    apply = core("nodes").ControlNetApplyAdvanced().apply_controlnet
    return apply(sd.text(text), sd.text(""), net, hint, 1.0, 0.0, 1.0)[0]


@pytest.mark.parametrize("names", [("PAG",), ("FreeU",)])
def test_other_nodes_do_to_an_inflated_model_what_they_do_to_a_plain_one(sd, host, names):
    """An inflation in which each frame looks at itself alone is the plain model; so it must be behind other nodes."""
    inflated = host.inflate(sd.model, attention="frame", group_norm="frame")
    plain, same = (sampled(patched(model, *names), sd, EMPTY, 2) for model in (sd.model, inflated))
    assert relative(same, plain) < 1e-4
    assert relative(plain, sampled(sd.model, sd, EMPTY, 2)) > 1e-3


def test_other_nodes_and_a_controlnet_do_to_an_inflated_model_what_they_do_to_a_plain_one(reduced, host, models):
    positive = with_controlnet(reduced, models)
    inflated = host.inflate(reduced.model, attention="frame", group_norm="frame")
    plain, same = (
        sampled(patched(model, "PAG", "FreeU"), reduced, EMPTY, 1, positive=positive)
        for model in (reduced.model, inflated)
    )
    assert relative(same, plain) < 1e-4
    assert relative(plain, sampled(patched(reduced.model, "PAG", "FreeU"), reduced, EMPTY, 1)) > 1e-3


def test_hypertile_leaves_attention_across_frames_whole(sd, host, weights):
    """It cuts the asking frame into tiles; they still look at whole frames, so nothing is lost, nor gained."""
    model = host.with_tuned(sd.model, weights)
    larger = {"samples": torch.zeros(3, 4, 16, 16)}
    assert relative(sampled(patched(model, "HyperTile"), sd, larger, 2), sampled(model, sd, larger, 2)) < 1e-4


def test_pag_freeu_and_hypertile_together(sd, host, weights):
    """The order in which the nodes are laid does not matter, whichever side of the inflation they are on."""
    names, larger = ("PAG", "FreeU", "HyperTile"), {"samples": torch.zeros(3, 4, 16, 16)}
    behind = sampled(patched(host.with_tuned(sd.model, weights), *names), sd, larger, 2)
    before = sampled(host.with_tuned(patched(sd.model, *names), weights), sd, larger, 2)
    plain = sampled(host.with_tuned(sd.model, weights), sd, larger, 2)
    assert behind.isfinite().all()
    assert relative(before, behind) < 1e-4
    assert relative(behind, plain) > 1e-3
    for left_out in ("PAG", "FreeU"):  # HyperTile changes nothing, see above
        others = patched(host.with_tuned(sd.model, weights), *(name for name in names if name != left_out))
        assert relative(sampled(others, sd, larger, 2), behind) > 1e-3


def test_the_added_weights_are_seen_by_the_memory_manager_and_leave_with_the_model(sd, host, weights):
    manage, model = core("comfy.model_management"), host.with_tuned(sd.model, weights)
    sampled(model, sd, EMPTY, 1)
    loaded = [entry.model.model for entry in manage.current_loaded_models]
    assert model.get_additional_models()[0].model in loaded
    manage.unload_all_models()
    assert not [entry for entry in manage.current_loaded_models if entry.model.model is model.model]


def test_the_added_weights_can_be_made_anew_for_another_gpu(sd, host, weights):
    added = host.with_tuned(sd.model, weights).get_additional_models()[0]
    twin = added.deepclone_multigpu(torch.device("cpu"))
    assert twin.model is not added.model
    theirs, ours = twin.model.state_dict(), added.model.state_dict()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())


def test_other_families_are_refused_by_name(sd, host):
    config = sd.model.model.model_config.unet_config
    for changes, message in (
        ({"in_channels": 9}, "inpainting"),
        ({"context_dim": 2048}, "Stable Diffusion XL"),
        ({"num_classes": "sequential", "context_dim": 1024}, "unCLIP"),
    ):
        kept = {name: config.get(name) for name in changes}
        config.update(changes)
        try:
            with pytest.raises(ValueError, match=message):
                host.inflate(sd.model)
        finally:
            config.update(kept)
            for name, value in kept.items():
                if value is None:
                    del config[name]


def test_weights_of_other_shapes_are_refused(sd, host, weights):
    name = next(iter(weights.tensors))
    wrong = type(weights)(weights.tensors | {name: random(3, 3)}, weights.facts)
    with pytest.raises(ValueError, match=r"do not fit this network: .*\(3, 3\)"):
        host.with_tuned(sd.model, wrong)
