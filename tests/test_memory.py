import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from tav_core import inflate
from tav_core.errors import is_out_of_memory
from tav_core.memory import (
    LiveBytes,
    _free_of_container,
    available_memory,
    decoding_memory,
    fits,
    inference_memory,
    tuning_bound,
    tuning_memory,
)
from tests.networks import text, tiny_unet, video


@pytest.mark.parametrize(
    ("checkpointing", "half", "margin"), [(False, False, 0.15), (True, False, 0.15), (False, True, 0.4)]
)
def test_the_estimate_for_tuning_is_what_a_real_step_takes(checkpointing, half, margin):
    """Counted on real tensors, for the same step; Adam's two moments come with the first update."""
    unet = inflate(tiny_unet(block_out_channels=(64, 64), norm_num_groups=32)).train()
    latents, prompt = video(frames=4, size=32), text(1, 77, 32)
    trained = unet.trainable_parameters().values()
    for parameter in trained:
        parameter.requires_grad_(True)
    if checkpointing:
        unet.unet.enable_gradient_checkpointing()
    with LiveBytes(unet) as live:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            output = unet(latents, 500, prompt)
        output.square().mean().backward()
    moments = sum(8 * parameter.numel() for parameter in trained)
    estimate = tuning_memory(unet, latents.shape, checkpointing=checkpointing, half=half)
    assert estimate == pytest.approx(live.peak + moments, rel=margin)


def test_the_estimate_for_a_prediction_is_what_a_real_one_takes():
    unet, latents = inflate(tiny_unet(block_out_channels=(64, 64), norm_num_groups=32)), video(frames=4, size=32)
    with torch.no_grad(), LiveBytes(unet) as live:
        unet(latents, 500, text(1, 77, 32))
    assert inference_memory(unet, latents.shape) == pytest.approx(live.peak, rel=0.15)


def test_the_estimate_for_decoding_is_what_a_real_frame_takes():
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()
    with torch.no_grad(), LiveBytes(vae) as live:
        vae.decode(torch.randn(1, 4, 16, 24))
    assert decoding_memory(vae, 16, 24) == pytest.approx(live.peak, rel=0.15)


def test_checkpointing_and_half_precision_take_less_and_frames_take_more():
    unet, shape = inflate(tiny_unet(block_out_channels=(64, 64), norm_num_groups=32)), (1, 4, 4, 32, 32)
    plain = tuning_memory(unet, shape, checkpointing=False)
    assert tuning_memory(unet, shape, checkpointing=True) < plain
    assert tuning_memory(unet, shape, checkpointing=False, half=True) < plain
    assert 1.8 * plain < tuning_memory(unet, (1, 4, 8, 32, 32), checkpointing=False) < 2.2 * plain


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({}, (1, 4, 2, 8, 8)),
        ({}, (1, 4, 24, 16, 16)),
        ({"block_out_channels": (32, 32), "cross_attention_dim": 8}, (2, 4, 5, 24, 8)),
        (
            {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2},
            (1, 4, 8, 16, 16),
        ),
    ],
)
def test_the_bound_is_more_than_the_estimate(config, shape):
    unet = inflate(tiny_unet(**config))
    estimate = tuning_memory(unet, shape, checkpointing=False)
    assert estimate < tuning_bound(unet, shape) < 5 * estimate


def test_free_memory_is_known_where_it_can_be():
    free = available_memory("cpu")
    assert 2**20 < free < 2**50
    assert fits(1, "cpu")
    assert not fits(free, "cpu")
    assert available_memory("meta") is None
    assert not fits(1, "meta")


def test_running_out_of_memory_is_not_confused_with_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(2, 2)(torch.zeros(1, 3))
    assert not is_out_of_memory(caught.value)


@pytest.mark.parametrize(("limit", "free"), [("8000", 8000 - 7000 + 5000), ("max", None)])
def test_what_a_container_keeps_of_files_it_has_read_counts_as_free(tmp_path, limit, free):
    """As psutil counts it of a machine. The files are Linux's own, of cgroup v2."""
    stat = "anon 1500\nfile 5500\ninactive_file 5000\nactive_file 500"
    for name, content in {"memory.max": limit, "memory.current": "7000", "memory.stat": stat}.items():
        (tmp_path / name).write_text(f"{content}\n")
    assert _free_of_container(tmp_path) == free
    assert _free_of_container(tmp_path / "none") is None
