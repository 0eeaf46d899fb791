"""Control by images: in every file layout, entering where it enters the 2-D network, and in its part of sampling."""

import json
import re
import zipfile
from functools import partial

import pytest
import torch
from diffusers import ControlNetModel, DDPMScheduler, T2IAdapter
from einops import rearrange
from safetensors.torch import save_file

from tav_core import NoisePredictor, TavError, TuneConfig, guided, inflate, tune
from tav_core.checkpoints.control_networks import open_controlnet, open_t2i_adapter
from tav_core.control import Control, residuals
from tav_core.fingerprints import controlled_run, key_of
from tests.golden import ddim
from tests.host.assets import adapter_name, controlnet_name, drawn
from tests.networks import SCHEDULE, text, tiny_unet, video

CHANNELS, HINTS, WIDTH = (32, 64), (16, 32, 96, 256), 768  # of a text, by which a file tells its family
UNET = {
    "block_out_channels": CHANNELS,
    "norm_num_groups": 32,
    "attention_head_dim": 8,
    "layers_per_block": 2,
    "cross_attention_dim": WIDTH,
}


def words(seed=2):
    return text(1, 7, WIDTH, seed=seed)


def unet2d():
    return tiny_unet(**UNET)


@pytest.fixture(scope="module")
def controlnet():
    network = ControlNetModel.from_unet(unet2d(), conditioning_embedding_out_channels=HINTS)
    network.load_state_dict(drawn(network.state_dict(), seed=3))  # also the layers that start as zero
    return network.eval()


def new_adapter(**config):
    network = T2IAdapter(**{"channels": list(CHANNELS), "num_res_blocks": 2} | config)
    network.load_state_dict(drawn(network.state_dict(), seed=4))
    return network.eval()


@pytest.fixture(scope="module")
def adapter():
    return new_adapter()


def pictures(frames=3, side=64, seed=5):
    return torch.rand(frames, 3, side, side, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def controlled_2d(nets, latents, timestep, prompt_embeds, strengths):
    """diffusers' own 2-D network under diffusers' own control networks, frame by frame."""
    unet, kwargs = unet2d(), {}
    frames = rearrange(latents, "1 c f h w -> f c h w")
    embeds = prompt_embeds.expand(len(frames), -1, -1)
    for (network, hint), strength in zip(nets, strengths, strict=True):
        if isinstance(network, T2IAdapter):
            kwargs["down_intrablock_additional_residuals"] = [strength * x for x in network(hint)]
            continue
        down, middle = network(frames, timestep, embeds, hint, conditioning_scale=strength, return_dict=False)
        kwargs |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    return rearrange(unet(frames, timestep, embeds, **kwargs).sample, "f c h w -> 1 c f h w")


def inflated():
    return inflate(unet2d(), attention="frame", group_norm="frame")


@pytest.mark.parametrize("kinds", ["c", "t", "ct"])
@torch.no_grad()
def test_control_enters_the_inflated_network_where_it_enters_the_2d_one(controlnet, adapter, kinds):
    nets = {"c": (controlnet, pictures()), "t": (adapter, pictures(seed=6))}
    strengths = [0.8, 0.5][: len(kinds)]
    controls = [Control(*nets[kind], strength) for kind, strength in zip(kinds, strengths, strict=True)]
    latents, unet = video(frames=3), inflated()
    expected = controlled_2d([nets[kind] for kind in kinds], latents, 500, words(), strengths)
    got = unet(latents, 500, words(), **residuals(controls, latents, 500, words()))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert (got - unet(latents, 500, words())).abs().max() > 0.01


@torch.no_grad()
def test_two_of_a_kind_add_up_and_one_image_is_for_all_frames(controlnet, adapter):
    latents, one = video(frames=3), pictures(frames=1)
    for network in (controlnet, adapter):
        single = residuals([Control(network, one, 0.6)], latents, 400, words())
        twice = residuals(
            [Control(network, one, 0.2), Control(network, one.repeat(3, 1, 1, 1), 0.4)], latents, 400, words()
        )
        assert single.keys() == twice.keys()
        for name in single:
            torch.testing.assert_close(twice[name], single[name], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_texts_per_frame_and_a_batch_of_videos_reach_the_controlnet(controlnet):
    latents, texts, hint = video(frames=3, batch=2), text(2, 3, 7, WIDTH), pictures()
    together = residuals([Control(controlnet, hint)], latents, torch.tensor([10, 900]), texts)
    for sample, timestep in enumerate((10, 900)):
        alone = residuals([Control(controlnet, hint)], latents[[sample]], timestep, texts[[sample]])
        middle = together["mid_block_additional_residual"][3 * sample : 3 * sample + 3]
        torch.testing.assert_close(middle, alone["mid_block_additional_residual"], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_control_acts_in_its_part_of_sampling_alone(controlnet, adapter):
    latents = video(frames=3)
    for network in (controlnet, adapter):
        late, none = Control(network, pictures(), 1.0, 0.5, 1.0), Control(network, pictures(), 0.0)
        assert residuals([late], latents, 999, words()) == {}
        assert residuals([late], latents, 499, words())
        assert residuals([none], latents, 499, words()) == {}
    mixed = residuals(
        [Control(controlnet, pictures(), 1.0, 0.0, 0.4)], video(frames=3, batch=2), torch.tensor([999, 1]), words()
    )
    noisy, clean = mixed["mid_block_additional_residual"].chunk(2)
    assert noisy.abs().max() > 0.01
    assert clean.count_nonzero() == 0


@torch.no_grad()
def test_guidance_asks_both_texts_under_control_at_once_and_says_the_same(controlnet, adapter):
    unet, controls = inflated(), (Control(controlnet, pictures()), Control(adapter, pictures()))
    cond, uncond = (NoisePredictor(unet, words(seed), ddim(), controls) for seed in (3, 4))
    joined = guided(cond, uncond, 3.0)(video(frames=3), 500)
    apart = guided(lambda *a: cond(*a), lambda *a: uncond(*a), 3.0)(video(frames=3), 500)
    torch.testing.assert_close(joined, apart, atol=1e-4, rtol=1e-4)
    without = guided(*(NoisePredictor(unet, words(seed), ddim()) for seed in (3, 4)), 3.0)(video(frames=3), 500)
    assert (joined - without).abs().max() > 0.01


def test_tuning_under_control_learns_the_same_with_gradient_checkpointing(controlnet, adapter):
    """diffusers adds an adapter's features in place, at the ends of blocks whose gradients are still to come."""
    controls = (Control(controlnet, pictures()), Control(adapter, pictures(seed=6)))
    losses = []
    for checkpointing in (False, True):
        unet = inflate(unet2d())
        settings = TuneConfig(num_steps=3, learning_rate=1e-2, gradient_checkpointing=checkpointing)
        under = partial(residuals, controls, prompt_embeds=words())
        losses.append(tune(unet, video(frames=3), words(), DDPMScheduler(**SCHEDULE), settings, control=under).losses)
        assert all(parameter.abs().max() > 0 for parameter in unet.trainable_parameters().values())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    plain = tune(inflate(unet2d()), video(frames=3), words(), DDPMScheduler(**SCHEDULE), settings).losses
    assert abs(plain[0] - losses[0][0]) > 1e-3


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (pictures(frames=2), "Got 2 control images for 3 frames"),
        (pictures(side=32), "are 32x32, but the video is 64x64"),
    ],
)
def test_images_of_another_count_or_size_are_refused(controlnet, hint, message):
    with pytest.raises(TavError, match=message):
        residuals([Control(controlnet, hint)], video(frames=3), 500, words())


@pytest.mark.parametrize(
    ("settings", "message"),
    [((-1.0,), "strength"), ((1.0, 0.6, 0.4), "range"), ((1.0, 0.0, 2.0), "range")],
)
def test_settings_out_of_range_are_refused(controlnet, settings, message):
    with pytest.raises(TavError, match=message):
        Control(controlnet, pictures(), *settings)
    with pytest.raises(TavError, match="move the channels"):
        Control(controlnet, pictures().movedim(1, -1))


# Files


def original_controlnet(network):
    config = UNET | {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
    return {controlnet_name(name, config): tensor for name, tensor in network.items()}


def beside_a_checkpoint(network):
    """As the first ControlNets were shared, with the whole Stable Diffusion, whose blocks have the same names."""
    control = {f"control_model.{name}": tensor for name, tensor in original_controlnet(network).items()}
    blocks = [name for name in control if re.search(r"input_blocks|middle_block\.|time_embed", name)]
    return control | {name.replace("control_model", "model.diffusion_model"): -control[name] for name in blocks}


CONTROLNET_FILES = {
    "the original's names": original_controlnet,
    "beside a whole checkpoint": beside_a_checkpoint,
    "diffusers' names": dict,
}


@pytest.mark.parametrize("layout", CONTROLNET_FILES)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_controlnet_opens_from_a_file_in_each_layout(controlnet, tmp_path, layout, suffix):
    path = tmp_path / f"control.{suffix}"
    tensors = CONTROLNET_FILES[layout](controlnet.state_dict())
    torch.save(tensors, path) if suffix == "pth" else save_file(tensors, path)
    assert_same(open_controlnet(path), controlnet)


def test_a_controlnet_and_an_adapter_open_from_a_folder(controlnet, adapter, tmp_path):
    controlnet.save_pretrained(tmp_path / "control")
    adapter.save_pretrained(tmp_path / "adapter")
    assert_same(open_controlnet(tmp_path / "control"), controlnet)
    assert_same(open_t2i_adapter(tmp_path / "adapter"), adapter)


@pytest.mark.parametrize("wrapped", ["state_dict", "adapter"])
def test_a_pickle_may_hold_its_tensors_one_level_down(adapter, tmp_path, wrapped):
    torch.save({wrapped: adapter.state_dict(), "epoch": 3}, tmp_path / "adapter.pth")
    assert_same(open_t2i_adapter(tmp_path / "adapter.pth"), adapter)


def test_half_precision_opens_in_the_precision_asked_for(controlnet, tmp_path):
    save_file({k: v.half() for k, v in controlnet.state_dict().items()}, tmp_path / "control.safetensors")
    assert open_controlnet(tmp_path / "control.safetensors").dtype is torch.float32
    assert open_controlnet(tmp_path / "control.safetensors", torch.bfloat16).dtype is torch.bfloat16


def test_a_controlnet_of_shuffled_images_pools_globally(controlnet, tmp_path):
    save_file(original_controlnet(controlnet.state_dict()), tmp_path / "control_v11e_sd15_shuffle.safetensors")
    assert open_controlnet(tmp_path / "control_v11e_sd15_shuffle.safetensors").config.global_pool_conditions


def original_light(network):
    return {k.removeprefix("adapter.").replace(".resnets.", ".body."): v for k, v in network.items()}


ADAPTERS = {
    "full": ({}, lambda network: {adapter_name(k): v for k, v in network.items()}),
    "grey": ({"in_channels": 1}, lambda network: {adapter_name(k): v for k, v in network.items()}),
    "light": ({"adapter_type": "light_adapter", "channels": [32, 64, 64], "num_res_blocks": 4}, original_light),
}


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("in_diffusers_names", [True, False])
def test_an_adapter_opens_from_a_file_in_each_layout(kind, in_diffusers_names, tmp_path):
    config, original = ADAPTERS[kind]
    network = new_adapter(**config)
    tensors = network.state_dict() if in_diffusers_names else original(network.state_dict())
    save_file(tensors, tmp_path / "adapter.safetensors")
    opened = open_t2i_adapter(tmp_path / "adapter.safetensors")
    assert_same(opened, network)
    hint = Control(opened, pictures(frames=2)).features
    seen = pictures(frames=2).mean(1, keepdim=True) if kind == "grey" else pictures(frames=2)
    with torch.no_grad():
        torch.testing.assert_close(hint, network(seen))


def test_images_of_bytes_control_as_their_values_in_0_to_1_and_count_as_the_same_run(controlnet, adapter):
    as_bytes = (pictures() * 255).round().byte()
    as_floats = as_bytes.float() / 255
    for network in (controlnet, adapter):
        ours, theirs = (
            residuals([Control(network, images)], video(frames=3), 500, words()) for images in (as_bytes, as_floats)
        )
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
        runs = {controlled_run("run", [Control(network, images)]) for images in (as_bytes, as_floats)}
        assert len(runs) == 1
    assert key_of(as_bytes) == key_of(as_floats)


def test_an_adapter_s_features_are_kept_of_a_whole_clip_and_not_of_each_window(adapter):
    control = Control(adapter, pictures())
    assert control.features is control.features
    part = control.on_frames([0, 2])
    assert part is control.on_frames([0, 2])
    assert part.features is not part.features
    for ours, whole in zip(part.features, control.features, strict=True):
        torch.testing.assert_close(ours, whole[[0, 2]])


def assert_same(opened, network):
    theirs = network.state_dict()
    assert opened.state_dict().keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in opened.state_dict().items())
    names = set(network.config) & set(opened.config) - {"sample_size", "norm_num_groups"}
    told = {name: (opened.config[name], network.config[name]) for name in names if not name.startswith("_")}
    assert {name: one for name, (one, other) in told.items() if json.dumps(one) != json.dumps(other)} == {}
    assert not any(parameter.requires_grad for parameter in opened.parameters())


REFUSED = {
    "difference": (
        open_controlnet,
        lambda tensors: tensors | {"difference": torch.zeros(1)},
        "is a ControlNet stored as a difference",
    ),
    "of SDXL": (
        open_controlnet,
        lambda tensors: {k: torch.zeros(32, 2048) if "attn2.to_k" in k else v for k, v in tensors.items()},
        "is a ControlNet for Stable Diffusion XL",
    ),
    "of SDXL, by its labels": (
        open_controlnet,
        lambda tensors: tensors | {"add_embedding.linear_1.weight": torch.zeros(1)},
        "is a ControlNet for Stable Diffusion XL",
    ),
    "Control-LoRA": (open_controlnet, lambda tensors: {"lora_controlnet": torch.zeros(1)}, "is a Control-LoRA"),
    "no ControlNet": (open_controlnet, lambda tensors: {"conv_in.weight": torch.zeros(1)}, "is not a ControlNet"),
    "half": (open_controlnet, lambda tensors: dict(list(tensors.items())[5:]), "lacks the tensor"),
    "no adapter": (open_t2i_adapter, dict, "is not a T2I-Adapter|is damaged"),
    "adapter of SDXL": (
        open_t2i_adapter,
        lambda tensors: new_adapter(downscale_factor=16).state_dict(),
        "is a T2I-Adapter for Stable Diffusion XL",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_control_network_of_ours_is_named(controlnet, tmp_path, case):
    opening, change, message = REFUSED[case]
    save_file(change(controlnet.state_dict()), tmp_path / "it.safetensors")
    with pytest.raises(TavError, match=message) as caught:
        opening(tmp_path / "it.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(-1,), (1, 1, 1, 1, 1, -1)])
@pytest.mark.parametrize(
    ("opening", "name"),
    [
        (open_controlnet, "conv_in.weight"),
        (open_controlnet, "controlnet_cond_embedding.conv_in.weight"),
        (open_controlnet, "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"),
        (open_t2i_adapter, "adapter.conv_in.weight"),
        (open_t2i_adapter, "adapter.body.0.resnets.0.block2.weight"),
    ],
)
def test_a_tensor_of_another_rank_is_refused(controlnet, adapter, tmp_path, opening, name, shape):
    tensors = {**controlnet.state_dict(), **adapter.state_dict()}
    save_file(tensors | {name: tensors[name].flatten().reshape(shape)}, tmp_path / "it.safetensors")
    with pytest.raises(TavError, match=r"it\.safetensors"):
        opening(tmp_path / "it.safetensors")


def test_a_pickle_with_numbers_for_names_is_refused(adapter, tmp_path):
    torch.save({0: torch.zeros(1)}, tmp_path / "adapter.pth")
    with pytest.raises(TavError, match="is not a dict of tensors"):
        open_t2i_adapter(tmp_path / "adapter.pth")
    torch.save({0: torch.zeros(1), **adapter.state_dict()}, tmp_path / "adapter.pth")
    assert_same(open_t2i_adapter(tmp_path / "adapter.pth"), adapter)


@pytest.mark.parametrize("by", ["compression", "views"])
def test_a_small_pickle_of_much_memory_is_refused_before_it_is_unpacked(tmp_path, by):
    path, zeros = tmp_path / "adapter.pth", torch.zeros(2**22)
    if by == "compression":
        torch.save({"body.0.block1.weight": zeros}, tmp_path / "stored.pth")
        with zipfile.ZipFile(tmp_path / "stored.pth") as stored, zipfile.ZipFile(path, "w", 8) as smaller:
            for entry in stored.infolist():
                smaller.writestr(entry.filename, stored.read(entry))
        assert torch.load(path, weights_only=True)["body.0.block1.weight"].numel() == 2**22
    else:
        torch.save({"body.0.block1.weight": torch.zeros(1).expand(2**40)}, path)
    assert path.stat().st_size < 2**18
    with pytest.raises(TavError, match=r"is compressed|unpacks to far more memory"):
        open_t2i_adapter(path)


def test_a_pickle_of_tensors_that_are_not_dense_is_refused(tmp_path):
    torch.save({"body.0.block1.weight": torch.eye(3).to_sparse()}, tmp_path / "adapter.pth")
    with pytest.raises(TavError, match="tensors of a special kind"):
        open_t2i_adapter(tmp_path / "adapter.pth")


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "half.safetensors").write_bytes(b"12345678")
    for name, message in {
        "none.safetensors": "There is no file or folder",
        "half.safetensors": "not a complete",
    }.items():
        with pytest.raises(TavError, match=message):
            open_controlnet(tmp_path / name)
