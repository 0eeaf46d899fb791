"""What a prompt is besides its embeddings reaches every network: pooled text and sizes, as Stable Diffusion XL's."""

import copy
import importlib

import pytest
import torch
from diffusers import ControlNetModel, DDPMScheduler
from einops import rearrange

from tav_core import NoisePredictor, Prompt, TavError, TuneConfig, guided, inflate, tune
from tav_core.control import Control, residuals
from tav_core.fingerprints import run_fingerprint
from tests.golden import ddim
from tests.networks import SCHEDULE, text, tiny_unet, video

SIZES = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
DEEP = {"transformer_layers_per_block": (2, 3), "use_linear_projection": True}
POOLED, EMBEDDED = 16, 8
TEXT_TIME = DEEP | {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": EMBEDDED,
    "projection_class_embeddings_input_dim": POOLED + 6 * EMBEDDED,
}


@pytest.fixture(autouse=True)
def _every_family(monkeypatch):
    """Lets networks of a family that is still refused be inflated."""
    monkeypatch.setattr(importlib.import_module("tav_core.inflate"), "family_of_config", lambda *_: "another")


def labelled_unet():
    return tiny_unet(**TEXT_TIME)


def prompt(seed: int = 2, count: int = 1, tokens: int = 7) -> Prompt:
    pooled = text(count, POOLED, seed=seed + 100)
    return Prompt(text(count, tokens, 32, seed=seed), {"text_embeds": pooled, "time_ids": SIZES.expand(count, 6)})


def frames_alone():
    return inflate(labelled_unet(), attention="frame", group_norm="frame")


@torch.no_grad()
def test_on_equal_frames_the_inflated_network_is_the_2d_one_and_pooled_text_acts():
    latents, given = video(frames=1).repeat(1, 1, 3, 1, 1), prompt()
    frames = rearrange(latents, "1 c f h w -> f c h w")
    embeds, *_ = (tensor.expand(3, *tensor.shape[1:]) for tensor in given.tensors)
    added = {name: tensor.expand(3, -1) for name, tensor in given.added.items()}
    expected = labelled_unet()(frames, 500, embeds, added_cond_kwargs=added).sample
    unet = inflate(labelled_unet())
    torch.testing.assert_close(unet(latents, 500, given), rearrange(expected, "f c h w -> 1 c f h w"))
    other = Prompt(given.embeds, given.added | {"text_embeds": prompt(seed=3).added["text_embeds"]})
    assert (unet(latents, 500, other) - unet(latents, 500, given)).abs().max() > 0.01


@torch.no_grad()
def test_a_batch_of_prompts_and_a_prompt_per_frame_are_each_prompt_by_itself():
    unet, prompts = inflate(labelled_unet()), prompt(count=2)
    latents = video(frames=3, batch=2)
    together = unet(latents, 500, prompts)
    for i in range(2):
        torch.testing.assert_close(together[[i]], unet(latents[[i]], 500, prompts[[i]]))
    unet, latents, prompts = frames_alone(), video(frames=3), prompt(count=3)
    output = unet(latents, 500, prompts[None])
    for i in range(3):
        torch.testing.assert_close(output[:, :, [i]], unet(latents[:, :, [i]], 500, prompts[[i]]))


@pytest.mark.parametrize("uncond", [prompt(seed=9), prompt(seed=9, tokens=14)], ids=["one batch", "two calls"])
@torch.no_grad()
def test_guidance_runs_both_prompts_in_one_batch_where_they_fit_and_always_predicts_the_same(uncond):
    unet, calls = inflate(labelled_unet()), []
    unet.register_forward_hook(lambda *_: calls.append(1))
    predict = [NoisePredictor(unet, given, ddim()) for given in (prompt(), uncond)]
    apart = guided(*(lambda *a, one=one: one(*a) for one in predict), 3.0)(video(), 500)
    calls.clear()
    joined = guided(*predict, 3.0)(video(), 500)
    torch.testing.assert_close(joined, apart, atol=1e-4, rtol=1e-4)
    assert len(calls) == (1 if uncond.embeds.shape == prompt().embeds.shape else 2)


def test_prompts_stack_only_if_they_have_the_same_conditions():
    assert prompt().stacks_with(prompt(seed=5, count=2))
    assert not prompt().stacks_with(Prompt(prompt().embeds))
    assert not prompt().stacks_with(Prompt(prompt().embeds, {"text_embeds": text(1, 8), "time_ids": SIZES}))


def test_tuning_takes_the_whole_prompt_and_another_pooled_text_is_another_run():
    unet, scheduler, config = inflate(labelled_unet()), DDPMScheduler(**SCHEDULE), TuneConfig(num_steps=2)
    runs = [run_fingerprint(unet, video(), given, scheduler, config) for given in (prompt(), prompt()[:1])]
    other = Prompt(prompt().embeds, prompt(seed=3).added)
    assert runs[0] == runs[1] != run_fingerprint(unet, video(), other, scheduler, config)
    losses = tune(unet, video(), prompt(), scheduler, config).losses
    assert losses != tune(inflate(labelled_unet()), video(), other, scheduler, config).losses
    with torch.inference_mode():
        created = Prompt(prompt().embeds, prompt().added | {"text_embeds": torch.ones(1, POOLED)})
    with pytest.raises(TavError, match="created in torch"):
        tune(unet, video(), created, scheduler, config)


@torch.no_grad()
def test_embeddings_alone_are_a_prompt_of_nothing_else():
    unet, scheduler, config = inflate(tiny_unet()), DDPMScheduler(**SCHEDULE), TuneConfig()
    for embeds in (text(), text(1, 4, 7, 32)):
        assert torch.equal(unet(video(), 500, embeds), unet(video(), 500, Prompt(embeds)))
        alone, whole = (run_fingerprint(unet, video(), p, scheduler, config) for p in (embeds, Prompt(embeds)))
        assert alone == whole


@torch.no_grad()
def test_labels_that_are_embedded_already_give_the_same_network():
    """ComfyUI passes pooled text and embedded sizes as one vector, `y`; diffusers projects such a one as a class."""
    given, other = prompt(), labelled_unet()
    expected = inflate(labelled_unet())(video(), 500, given)
    projected = tiny_unet(
        **DEEP,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=TEXT_TIME["projection_class_embeddings_input_dim"],
    )
    weights = other.state_dict()
    projected.load_state_dict({n.replace("add_embedding", "class_embedding"): t for n, t in weights.items()})
    sizes = other.add_time_proj(SIZES.flatten()).reshape(1, -1)
    labelled = Prompt(given.embeds, {"class_labels": torch.cat([given.added["text_embeds"], sizes], 1)})
    half = copy.deepcopy(projected).to(torch.bfloat16)
    torch.testing.assert_close(inflate(projected)(video(), 500, labelled), expected)
    assert torch.isfinite(inflate(half)(video(), 500, labelled)).all()


@torch.no_grad()
def test_controlnets_take_the_whole_prompt():
    torch.manual_seed(0)
    network = ControlNetModel.from_unet(labelled_unet(), conditioning_embedding_out_channels=(16, 32, 96, 256))
    for layer in (*network.controlnet_down_blocks, network.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight)  # else it starts as zero
    latents, prompts = video(frames=3), prompt(count=3)
    controls = [Control(network.eval(), torch.rand(1, 3, 64, 64))]
    per_frame = residuals(controls, latents, 500, prompts[None])["mid_block_additional_residual"]
    for i in range(3):
        alone = residuals(controls, latents[:, :, [i]], 500, prompts[[i]])["mid_block_additional_residual"]
        torch.testing.assert_close(per_frame[[i]], alone, atol=1e-4, rtol=1e-4)
    other = Prompt(prompts.embeds, prompts.added | {"text_embeds": text(3, POOLED, seed=8)})
    changed = residuals(controls, latents, 500, other[None])["mid_block_additional_residual"]
    assert (changed - per_frame).abs().max() > 0.01


def test_conditions_of_another_count_are_refused():
    with pytest.raises(TavError, match=r"embeddings are \(2, 7, 32\), but text_embeds is \(1, 16\)"):
        Prompt(text(2, 7, 32), {"text_embeds": text(1, 16)})
