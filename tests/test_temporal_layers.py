"""Position bias, pseudo-3-D convolution, merging by alpha: as published, the identity at first, tuned, taken away."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.models.resnet import AlphaBlender
from einops import rearrange
from torch import nn

from tav_core import TavError, TuneConfig, TunedWeights, inflate, tune
from tav_core.attention import TemporalAttention
from tav_core.inflation import Inflation
from tav_core.merge import merged
from tav_core.position_bias import relative_buckets
from tav_core.prompt import Prompt
from tav_core.temporal_convolution import TEMPORAL_CONVOLUTIONS
from tav_core.tune import as_images
from tests import golden
from tests.golden import worst
from tests.networks import SCHEDULE, text, tiny_unet, video

MAKE_A_VIDEO = Inflation("frame", "frame", convolution=True)
VIDEO_LDM = Inflation("frame", "frame", convolution=True, merge="alpha", queries=False)
VIDEO_DIFFUSION = Inflation("frame", "frame", position_bias=True, queries=False)
ALL = Inflation(position_bias=True, convolution=True, merge="alpha")
INFLATIONS = {
    "position bias": Inflation(position_bias=True),
    "Make-A-Video": MAKE_A_VIDEO,
    "Video LDM": VIDEO_LDM,
    "Ho et al.": VIDEO_DIFFUSION,
    "all": ALL,
}
FAST = TuneConfig(num_steps=3, learning_rate=1e-2, gradient_checkpointing=False)


@pytest.fixture(scope="module", params=INFLATIONS.values(), ids=INFLATIONS)
def inflation(request):
    return request.param


@pytest.fixture(scope="module")
def published():
    return golden.load("published/temporal_layers")


@torch.no_grad()
def forward(unet, **changes) -> torch.Tensor:
    return unet(*({"latents": video(), "timestep": 500, "prompt": text()} | changes).values())


def run(inflation, config=FAST, unet=None, **options):
    unet = unet or inflate(tiny_unet(), inflation)
    tune(unet, video(), text(), DDPMScheduler(**SCHEDULE), config, **options)
    return unet


def plain_start(inflation) -> Inflation:
    """The same with none of the later fields."""
    return Inflation(inflation.attention, inflation.group_norm)


# As published, in float64; the stored numbers are rounded to float32


@torch.no_grad()
def test_a_pseudo_3d_convolution_is_the_reference_s(published):
    weights, (first, _) = published.part("convolution."), TEMPORAL_CONVOLUTIONS
    latents = published["in.convolution"].double()
    spatial = [weights[f"spatial_conv.{name}"].double() for name in ("weight", "bias")]
    images = F.conv2d(rearrange(latents, "b c f h w -> (b f) c h w"), *spatial, padding=1)
    block = SimpleNamespace(**first.build(16, 1, dtype=torch.float64))
    identity = nn.init.dirac_(torch.empty(16, 16, 3, dtype=torch.float64))
    block.conv1_temp.conv.weight.copy_((weights["temporal_conv.weight"] - identity)[..., None])
    block.conv1_temp.conv.bias.copy_(weights["temporal_conv.bias"])
    output = images + first.residual(block, images, 5)
    assert worst(rearrange(output, "(b f) c h w -> b c f h w", f=5), published["out.convolution"]) < 1e-6
    assert worst(images[::5], published["out.convolution.image"]) < 1e-6


def biased(published) -> TemporalAttention:
    attention = TemporalAttention(16, 4, position_bias=True, dtype=torch.float64)
    for layer, weight in zip(("to_q", "to_k", "to_v"), published["attention.to_qkv.weight"].chunk(3), strict=True):
        getattr(attention, layer).weight.copy_(weight)
    attention.to_out[0].weight.copy_(published["attention.to_out.weight"])
    attention.to_out[0].bias.zero_()
    attention.position_bias.buckets.weight.copy_(published["bias.relative_attention_bias.weight"])
    return attention


@torch.no_grad()
def test_attention_with_a_position_bias_is_the_reference_s(published):
    given, attention = published["in.attention"].double(), biased(published)
    frames = given.shape[2]
    output = attention(rearrange(given, "b n f c -> (b f) n c"), frames)
    assert worst(rearrange(output, "(b f) n c -> b n f c", f=frames), published["out.attention.videos"]) < 1e-6
    attention.position_bias = None
    output = attention(rearrange(given, "b n f c -> (b f) n c"), frames)
    assert worst(rearrange(output, "(b f) n c -> b n f c", f=frames), published["out.attention.unbiased"]) < 1e-6


@torch.no_grad()
def test_frames_as_images_are_the_reference_s_masked_attention(published):
    given, attention = published["in.attention"].double(), biased(published)
    frames = given.shape[2]
    alone = attention(rearrange(given, "b n f c -> (b f) n c"), 1)
    alone = rearrange(alone, "(b f) n c -> b n f c", f=frames)
    assert worst(alone, published["out.attention.images"]) < 1e-6
    assert worst(alone[1], published["out.attention.one"][1]) < 1e-6


def test_the_buckets_are_the_reference_s(published):
    buckets = relative_buckets(80)
    assert buckets[0].tolist() == published.settings["buckets_ahead"]
    assert buckets[:, 0].tolist() == published.settings["buckets_behind"]


@torch.no_grad()
def test_merging_is_diffusers_alpha_blender():
    first, _ = TEMPORAL_CONVOLUTIONS
    addition = merged(first)
    block = SimpleNamespace(**addition.build(16, 1, dtype=torch.float64))
    for parameter in block.conv1_temp.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    spatial = torch.randn(5, 16, 6, 6, dtype=torch.float64)
    temporal = spatial + first.residual(block, spatial, 5)
    blender = AlphaBlender(block.conv1_temp.alpha.weight.item(), "learned").double()
    assert worst(spatial + addition.residual(block, spatial, 5), blender(spatial, temporal)) < 1e-6


# What each is for


@torch.no_grad()
def test_only_a_position_bias_tells_the_order_of_frames():
    given = torch.randn(6, 3, 16, generator=torch.Generator().manual_seed(0))
    for position_bias in (False, True):
        torch.manual_seed(0)
        attention = TemporalAttention(16, 4, position_bias=position_bias)
        backwards = attention(given.flip(0), 6).flip(0)
        assert torch.allclose(backwards, attention(given, 6), atol=1e-6) != position_bias


@torch.no_grad()
def test_a_convolution_reaches_the_neighbouring_frames_alone():
    convolution = TEMPORAL_CONVOLUTIONS[0].build(16, 1)["conv1_temp"]
    given = torch.randn(10, 16, 4, 4)  # 2 videos of 5 frames
    before = convolution(given, 5)
    given[1] += 1
    changed = (convolution(given, 5) - before).abs().amax(dim=(1, 2, 3)) > 1e-6
    assert changed.tolist() == [True, True, True, False, False] + [False] * 5


@torch.no_grad()
def test_convolutions_follow_both_spatial_ones_of_each_residual_block():
    unet = inflate(tiny_unet(), MAKE_A_VIDEO).unet
    for block in (module for name, module in unet.named_modules() if name.rpartition(".")[0].endswith("resnets")):
        for layer in ("conv1", "conv2"):
            convolution, own = getattr(block, f"{layer}_temp"), getattr(block, layer)
            nn.init.normal_(convolution.conv.weight)
            given = torch.randn(1, own.in_channels, 4, 4)
            spatial = F.conv2d(given, own.weight, own.bias, padding=1)
            torch.testing.assert_close(own(given), spatial + convolution(spatial, 1))


# In a network


def test_a_fresh_inflation_is_exactly_what_it_was_without(inflation):
    assert torch.equal(forward(inflate(tiny_unet(), inflation)), forward(inflate(tiny_unet(), plain_start(inflation))))


def test_each_is_trained_stored_scaled_and_taken_away(inflation, tmp_path):
    unet, start = inflate(tiny_unet(), inflation), forward(inflate(tiny_unet(), inflation))
    before = {name: parameter.clone() for name, parameter in unet.unet.named_parameters()}
    run(inflation, unet=unet)
    moved = {name for name, parameter in unet.unet.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == set(unet.trainable_parameters())
    assert any(".to_q." in name and "temp" not in name for name in moved) == inflation.queries

    TunedWeights.from_unet(unet).save(tmp_path / "tuned.safetensors")
    weights = TunedWeights.load(tmp_path / "tuned.safetensors")
    assert weights.facts.inflation == inflation
    fresh, away = inflate(tiny_unet(), weights.facts.inflation), {}
    for strength in (1.0, 0.5, 0.0):
        weights.apply(fresh, strength)
        away[strength] = worst(forward(fresh), start)
    assert away[0.0] == 0 < away[0.5] < away[1.0]
    weights.apply(fresh)
    torch.testing.assert_close(forward(fresh), forward(unet))

    plain = unet.deflate()
    assert plain.state_dict().keys() == tiny_unet().state_dict().keys()
    if not inflation.queries:
        assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in tiny_unet().state_dict().items())


@torch.no_grad()
def test_without_its_temporal_layers_video_ldm_is_the_image_network():
    unet, frames = run(VIDEO_LDM), rearrange(video(), "1 c f h w -> f c h w")
    expected = rearrange(tiny_unet()(frames, 500, text().expand(4, -1, -1)).sample, "f c h w -> 1 c f h w")
    assert worst(forward(unet), expected) > 1e-3
    TunedWeights.from_unet(unet).apply(unet, strength=0)
    torch.testing.assert_close(forward(unet), expected)
    alphas = [p for name, p in unet.trainable_parameters().items() if name.endswith(".alpha.weight")]
    assert len(alphas) == len(unet._added)
    assert all(0 < alpha.sigmoid() < 1 for alpha in alphas)


def test_a_run_resumes_bit_for_bit(tmp_path):
    whole, path = run(ALL, replace(FAST, num_steps=4)), tmp_path / "state.safetensors"
    for steps in (2, 4):
        resumed = run(ALL, replace(FAST, num_steps=steps), checkpoint=path)
    parameters = whole.trainable_parameters()
    assert all(torch.equal(p, parameters[name]) for name, p in resumed.trainable_parameters().items())


@torch.no_grad()
def test_trained_layers_in_a_half_precision_network_compute(inflation):
    unet = inflate(tiny_unet().to(torch.bfloat16), inflation)
    expected = forward(unet)
    for parameter in unet.trainable_parameters().values():
        parameter.data = parameter.data.float()
    torch.testing.assert_close(forward(unet), expected, atol=0.05, rtol=0.05)


# Frames as images


@torch.no_grad()
@pytest.mark.parametrize("prompt", [text(), text(2, 7, 32), text(1, 4, 7, 32), text(2, 4, 7, 32)], ids=str)
def test_frames_as_images_know_nothing_of_each_other(prompt):
    unet, latents = inflate(tiny_unet(), ALL), video(batch=2)
    for parameter in unet.trainable_parameters().values():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    timesteps = torch.tensor([300, 700])
    together = as_images(unet, latents, timesteps, Prompt(prompt))
    for sample in range(2):
        for frame in range(4):
            own = prompt[sample % len(prompt)][None]
            own = own[:, frame] if own.ndim == 4 else own
            alone = unet(latents[[sample], :, frame : frame + 1], timesteps[sample], own)
            torch.testing.assert_close(together[[sample], :, frame : frame + 1], alone)


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 4, 12)])
def test_steps_on_images_are_a_share_of_a_run_and_none_by_default(share, least, most):
    unet, seen = inflate(tiny_unet(), VIDEO_DIFFUSION), []
    unet.register_forward_pre_hook(lambda _unet, args: seen.append(args[0].shape[2]))
    run(VIDEO_DIFFUSION, replace(FAST, num_steps=16, image_share=share), unet=unet)
    assert set(seen) <= {1, 4}
    assert least <= seen.count(1) <= most


def test_steps_on_images_do_not_count_as_steps_that_leave_a_tensor_as_it_was():
    """With this seed, none of the first twenty steps reaches the position bias."""
    unet = run(Inflation(position_bias=True), replace(FAST, num_steps=22, image_share=0.9, seed=1))
    assert not any(bias.any() for name, bias in unet.trainable_parameters().items() if "position_bias" in name)


# Old runs and bad input


def test_what_old_runs_were_known_by_stays():
    assert Inflation().decisive() == {"attention": "sparse-causal", "group_norm": "video", "temporal": True}
    assert Inflation().as_key() == ["sparse-causal", "video", True]
    assert "image_share" not in TuneConfig().decisive()
    keys = [json.dumps(inflation.as_key()) for inflation in (*INFLATIONS.values(), Inflation(convolution=True))]
    assert len(set(keys)) == len(keys)
    assert Inflation.from_metadata({"attention": "first", "temporal": False}) == Inflation("first", temporal=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_bias": True, "temporal": False}, "position_bias belongs to temporal attention, which is off"),
        ({"merge": "alpha", "temporal": False}, "no temporal layer to merge"),
        ({"queries": False, "temporal": False}, "nothing is left to tune"),
        ({"merge": "beta"}, "merge must be one of add, alpha; got 'beta'"),
        ({"convolution": "yes"}, "convolution must be True or False; got 'yes'"),
    ],
)
def test_combinations_without_meaning_are_refused(changes, message):
    with pytest.raises(TavError, match=message):
        Inflation(**changes)


def test_a_position_bias_needs_two_frames_and_images_a_share_below_one():
    unet = inflate(tiny_unet(), position_bias=True)
    with pytest.raises(TavError, match="it needs at least 2 frames, got 1"):
        tune(unet, video(frames=1), text(), DDPMScheduler(**SCHEDULE), FAST)
    for share in (1, -0.1, "half"):
        with pytest.raises(TavError, match="image_share must be a number from 0 to below 1"):
            TuneConfig(image_share=share)


def test_weights_do_not_fit_another_merge():
    weights = TunedWeights.from_unet(run(VIDEO_LDM))
    with pytest.raises(TavError, match=r"alpha.weight \(1,\) for nothing.*merge=alpha, queries=False"):
        weights.apply(inflate(tiny_unet(), replace(VIDEO_LDM, merge="add")))
