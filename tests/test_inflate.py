import copy
import gc
import io
import weakref

import pytest
import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from einops import rearrange
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tav_core import TavError, inflate
from tav_core.attention import PATTERNS
from tests.networks import text, tiny_unet, video

SD15 = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}


@torch.no_grad()
def per_frame(unet, latents, timestep, prompt_embeds, **residuals):
    """What the 2-D network gives for each frame of one video by itself."""
    frames = rearrange(latents, "1 c f h w -> f c h w")
    output = unet(frames, timestep, prompt_embeds.expand(len(frames), -1, -1), **residuals).sample
    return rearrange(output, "f c h w -> 1 c f h w")


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("frames", [1, 3])
@torch.no_grad()
def test_on_equal_frames_a_fresh_inflation_is_the_2d_network(pattern, frames):
    latents = video(frames=1).repeat(1, 1, frames, 1, 1)
    expected = per_frame(tiny_unet(), latents, 500, text())
    torch.testing.assert_close(inflate(tiny_unet(), attention=pattern)(latents, 500, text()), expected)


@torch.no_grad()
def test_with_nothing_between_frames_each_frame_is_drawn_alone():
    expected = per_frame(tiny_unet(), video(), 500, text())
    alone = inflate(tiny_unet(), attention="frame", group_norm="frame")
    torch.testing.assert_close(alone(video(), 500, text()), expected)


@torch.no_grad()
def test_the_paper_s_pattern_and_joint_norms_do_mix_frames():
    latents = video()
    expected = per_frame(tiny_unet(), latents, 500, text())
    for options in ({"group_norm": "frame"}, {"attention": "frame"}):
        assert (inflate(tiny_unet(), **options)(latents, 500, text()) - expected).abs().max() > 0.01


@torch.no_grad()
def test_a_batch_of_videos_is_each_video_by_itself():
    unet = inflate(tiny_unet())
    latents, timesteps, texts = video(batch=2), torch.tensor([10, 900]), text(2, 7, 32)
    together = unet(latents, timesteps, texts)
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], unet(latents[i : i + 1], timesteps[i], texts[i : i + 1]))


@torch.no_grad()
def test_a_text_per_frame_goes_to_its_frame():
    unet = inflate(tiny_unet(), attention="frame", group_norm="frame")
    latents, texts = video(frames=3), text(1, 3, 7, 32)
    output = unet(latents, 500, texts)
    for i in range(3):
        torch.testing.assert_close(output[:, :, [i]], unet(latents[:, :, [i]], 500, texts[:, i]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    batch=st.integers(1, 2),
    frames=st.integers(1, 5),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    tokens=st.integers(1, 9),
    pattern=st.sampled_from(PATTERNS),
    per_frame=st.booleans(),
    kind_of_timestep=st.sampled_from(["int", "scalar", "one", "per sample"]),
)
@torch.no_grad()
def test_any_video_comes_out_in_the_shape_it_went_in(
    batch, frames, height, width, tokens, pattern, per_frame, kind_of_timestep
):
    """Also sides that the network's downsampling does not divide."""
    kinds = {"int": 7, "scalar": torch.tensor(7), "one": torch.tensor([7]), "per sample": torch.arange(batch)}
    latents = torch.randn(batch, 4, frames, height, width)
    prompt = text(batch, frames, tokens, 32) if per_frame else text(batch, tokens, 32)
    output = inflate(tiny_unet(), attention=pattern)(latents, kinds[kind_of_timestep], prompt)
    assert output.shape == latents.shape
    assert output.isfinite().all()


@torch.no_grad()
def test_control_enters_where_it_enters_the_2d_network():
    unet = tiny_unet()
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight)  # else it starts as zero
    adapter = T2IAdapter(in_channels=3, channels=[16, 32], num_res_blocks=1, downscale_factor=8)
    latents, pictures = video(frames=3), torch.rand(3, 3, 64, 64)
    frames = rearrange(latents, "1 c f h w -> f c h w")
    down, middle = controlnet(frames, 500, text().expand(3, -1, -1), pictures[..., ::4, ::4], return_dict=False)
    kinds = [
        {"down_block_additional_residuals": down, "mid_block_additional_residual": middle},
        {"down_intrablock_additional_residuals": adapter(pictures)},
    ]
    for residuals in kinds:
        copies = {k: [x.clone() for x in v] if isinstance(v, list) else v for k, v in residuals.items()}
        expected = per_frame(tiny_unet(), latents, 500, text(), **copies)
        inflated = inflate(tiny_unet(), attention="frame", group_norm="frame")
        for _ in range(2):  # what is passed in stays whole
            torch.testing.assert_close(inflated(latents, 500, text(), **residuals), expected)


def test_seven_tensors_a_block_are_trained_of_stable_diffusion():
    with torch.device("meta"):
        unet = inflate(UNet2DConditionModel(**SD15))
    trained = unet.trainable_parameters()
    assert len(trained) == 112
    assert sum(p.numel() for p in trained.values()) == 74_354_880
    assert sum(p.numel() for p in unet.parameters()) == 909_120_004


def test_the_same_network_always_inflates_to_the_same_network():
    first = inflate(tiny_unet())
    torch.manual_seed(99)
    second = inflate(tiny_unet())
    assert all(torch.equal(first.state_dict()[k], v) for k, v in second.state_dict().items() if "_temp" in k)


@torch.no_grad()
def test_deflating_gives_the_plain_network_back():
    unet = tiny_unet()
    names, processors = list(unet.state_dict()), unet.attn_processors
    expected = per_frame(unet, video(), 500, text())
    plain = inflate(unet).deflate()
    assert plain is unet
    assert list(plain.state_dict()) == names
    assert plain.attn_processors == processors
    assert torch.equal(per_frame(plain, video(), 500, text()), expected)
    inflate(plain, attention="first")


@torch.no_grad()
def test_float32_trained_tensors_in_a_half_precision_network_still_compute():
    unet = inflate(tiny_unet().to(torch.bfloat16))
    expected = unet(video(), 500, text())
    for parameter in unet.trainable_parameters().values():
        parameter.data = parameter.data.float()
    output = unet(video(), 500, text())
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("latents", "timestep", "prompt", "message"),
    [
        (video()[0], 1, text(), r"must be \(b, 4, f, h, w\), got \(4, 4, 8, 8\)"),
        (video()[:, :3], 1, text(), r"must be \(b, 4, f, h, w\), got \(1, 3, 4, 8, 8\)"),
        (video(), 1, text(1, 7, 31), r"must be \(1, n, 32\).*got \(1, 7, 31\)"),
        (video(), 1, text(2, 7, 32), r"must be \(1, n, 32\).*got \(2, 7, 32\)"),
        (video(), 1, text(1, 3, 7, 32), "Got 3 prompts for 4 frames"),
        (video(batch=2), torch.tensor([1, 2, 3]), text(), "Got 3 timesteps for a batch of 2"),
    ],
)
def test_inputs_of_other_shapes_are_refused(latents, timestep, prompt, message):
    with pytest.raises(TavError, match=message):
        inflate(tiny_unet())(latents, timestep, prompt)


def test_what_cannot_be_inflated_is_refused():
    unet = tiny_unet()
    for options, message in (
        ({"attention": "all"}, "attention must be one of sparse-causal, .*; got 'all'"),
        ({"group_norm": "none"}, "group_norm must be one of video, frame; got 'none'"),
        ({"temporal": 1}, "temporal must be True or False; got 1"),
    ):
        with pytest.raises(TavError, match=message):
            inflate(unet, **options)
    inflated = inflate(unet)
    for twice in (unet, inflated):
        with pytest.raises(TavError, match="already inflated"):
            inflate(twice)
    with pytest.raises(TavError, match="looks like an inpainting model"):
        inflate(tiny_unet(in_channels=9))
    with pytest.raises(TavError, match=r"UNet2DConditionModel.*Linear"):
        inflate(torch.nn.Linear(2, 2))


@torch.no_grad()
def test_an_inflated_network_survives_pickling_and_copying():
    unet = inflate(tiny_unet())
    stored = io.BytesIO()
    torch.save(unet, stored)
    stored.seek(0)
    expected = unet(video(), 500, text())
    for twin in (torch.load(stored, weights_only=False), copy.deepcopy(unet)):
        assert torch.equal(twin(video(frames=2), 500, text()), unet(video(frames=2), 500, text()))
        assert torch.equal(unet(video(), 500, text()), expected)


@pytest.mark.parametrize("changes", [{}, {"convolution": True, "merge": "alpha"}, {"known_frames": True}])
def test_a_network_gives_its_memory_back_as_soon_as_it_is_dropped(changes):
    """Not when Python's garbage collector runs, for it does not know how much a GPU holds."""
    unet = inflate(tiny_unet(), **changes)
    with torch.no_grad():
        unet(video(), 500, text())
    weights = [weakref.ref(parameter) for parameter in unet.parameters()]
    gc.disable()
    try:
        del unet
        assert not any(weight() is not None for weight in weights)
    finally:
        gc.enable()
