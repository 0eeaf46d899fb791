"""Opening checkpoints from one file or a folder, always offline; anything else gets a one-line error message."""

import json
import os
import re
import shutil
import socket

import pytest
import torch
from diffusers import EulerDiscreteScheduler, PNDMScheduler
from safetensors.torch import load_file, save_file

from tav_core.checkpoints.checkpoint import load_checkpoint
from tav_core.checkpoints.single_file import unet_config, vae_config
from tav_core.checkpoints.tokenizer import clip_tokenizer, open_tokenizer
from tav_core.errors import TavError
from tav_core.families import TEXT_ENCODER, UNET, VAE, family_of_tensors
from tav_core.world.vocabulary import write_tokenizer
from tests.random_checkpoint import empty_tensors, original_layout, write_random_checkpoint

NETWORKS = ("unet", "vae", "text_encoder")
CONTEXT = UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _no_network_at_all(monkeypatch, tmp_path):
    def connect(self, address):
        raise AssertionError(f"reached for the network at {address}")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The same tiny weights of either family in both layouts, stored in half precision as most are."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for size in ("tiny", "tiny-sd2"):
        write_random_checkpoint(folder / f"{size}.safetensors", size=size, seed=3)
        write_random_checkpoint(folder / size, size=size, seed=3, layout="diffusers")
    return folder


@pytest.fixture(scope="module")
def tiny(written):
    return load_checkpoint(written / "tiny.safetensors")


@pytest.fixture
def variant(written, tmp_path):
    """Rewrites a tiny file through a function of its tensors."""

    def rewrite(change, size="tiny"):
        tensors = load_file(written / f"{size}.safetensors")
        save_file(change(tensors), tmp_path / "variant.safetensors")
        return tmp_path / "variant.safetensors"

    return rewrite


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written / "tiny", tmp_path / "folder")


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_same(one, other):
    for network in NETWORKS:
        left, right = (getattr(checkpoint, network).state_dict() for checkpoint in (one, other))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)


def refusal(path):
    with pytest.raises(TavError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# The two layouts


@pytest.mark.parametrize("size", ["tiny", "tiny-sd2"])
def test_a_single_file_and_a_folder_of_the_same_weights_compute_the_same(written, size):
    file, folder = load_checkpoint(written / f"{size}.safetensors"), load_checkpoint(written / size)
    assert_same(file, folder)
    frames, prompts = torch.rand(2, 16, 24, 3), ["a cat on the grass!", "a dog"]
    embeds, latents = file.encode_prompt(prompts).embeds, file.encode_video(frames)
    torch.testing.assert_close(folder.encode_prompt(prompts).embeds, embeds)
    torch.testing.assert_close(folder.encode_video(frames), latents)
    torch.testing.assert_close(folder.decode_video(latents), file.decode_video(latents))
    inputs = latents[0].transpose(0, 1).repeat(1, 1, 2, 2)[:, :, :4, :4], torch.tensor(400), embeds
    with torch.no_grad():
        torch.testing.assert_close(folder.unet(*inputs).sample, file.unet(*inputs).sample)
    torch.testing.assert_close(folder.scheduler.alphas_cumprod, file.scheduler.alphas_cumprod)


@pytest.mark.parametrize(("size", "family", "heads"), [("tiny", "sd1", 8), ("tiny-sd2", "sd2", [1, 2])])
def test_the_family_decides_on_heads_and_padding(written, size, family, heads):
    checkpoint = load_checkpoint(written / f"{size}.safetensors")
    assert checkpoint.family == family
    assert checkpoint.unet.config.attention_head_dim == heads
    assert checkpoint.tokenizer.pad_token_id == {"sd1": 49407, "sd2": 0}[family]
    assert checkpoint.text_encoder.config.hidden_act == {"sd1": "quick_gelu", "sd2": "gelu"}[family]
    assert checkpoint.scheduler.config.prediction_type == "epsilon"


def test_a_file_of_full_size_has_all_the_names_of_stable_diffusion_1_5_and_its_sizes_are_read_off_them():
    shapes = {name: tuple(t.shape) for name, t in original_layout(*empty_tensors("sd15"), size="sd15").items()}
    assert [sum(name.startswith(part) for name in shapes) for part in (UNET, VAE, TEXT_ENCODER)] == [686, 248, 197]
    assert shapes[UNET + "output_blocks.5.2.conv.weight"] == (1280, 1280, 3, 3)
    assert shapes[UNET + "output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.weight"] == (2560, 320)
    assert shapes[VAE + "decoder.up.3.upsample.conv.weight"] == (512, 512, 3, 3)
    assert shapes[VAE + "encoder.mid.attn_1.q.weight"] == (512, 512, 1, 1)
    assert family_of_tensors(shapes, "it") == "sd1"
    unet, vae = unet_config(shapes, "sd1"), vae_config(shapes)
    assert unet["block_out_channels"] == [320, 640, 1280, 1280]
    assert (unet["layers_per_block"], unet["cross_attention_dim"]) == (2, 768)
    assert unet["down_block_types"] == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert (vae["block_out_channels"], vae["layers_per_block"]) == ([128, 256, 512, 512], 2)


def test_the_reduced_size_keeps_stable_diffusion_s_widths_in_two_levels():
    shapes = {name: tuple(t.shape) for name, t in original_layout(*empty_tensors("reduced"), size="reduced").items()}
    config = unet_config(shapes, family_of_tensors(shapes, "it"))
    assert config["block_out_channels"] == [320, 640]
    assert (config["layers_per_block"], config["cross_attention_dim"]) == (2, 768)


def test_a_seed_writes_the_same_file_again_and_another_seed_another(tmp_path, written):
    for seed in (3, 4):
        write_random_checkpoint(tmp_path / f"{seed}.safetensors", size="tiny", seed=seed)
    once, again = (
        load_file(folder / name) for folder, name in ((written, "tiny.safetensors"), (tmp_path, "3.safetensors"))
    )
    assert all(torch.equal(once[key], again[key]) for key in once)
    assert not torch.equal(once[CONTEXT], load_file(tmp_path / "4.safetensors")[CONTEXT])


# What a checkpoint computes


def test_prompts_are_embedded_as_the_pipeline_does(written):
    from diffusers import StableDiffusionPipeline

    for size in ("tiny", "tiny-sd2"):
        checkpoint = load_checkpoint(written / f"{size}.safetensors")
        pipeline = StableDiffusionPipeline.from_pretrained(written / size, local_files_only=True)
        prompts = ["a jeep car is moving on the road", "", "very " * 100 + "long!"]
        pipeline.text_encoder.float()  # transformers opens it in the stored dtype
        expected, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
        torch.testing.assert_close(checkpoint.encode_prompt(prompts).embeds, expected)
        assert checkpoint.encode_prompt(prompts).embeds.shape == (3, 77, 64)
        torch.testing.assert_close(checkpoint.encode_prompt(prompts[0]).embeds, expected[:1])


def test_the_words_that_a_prompt_loses_are_known(tiny, capfd):
    assert tiny.truncated_words("a photo of a cat") == ""
    assert tiny.truncated_words("very " * 75) == ""
    assert tiny.truncated_words("very " * 75 + "long story") == "long story"
    assert capfd.readouterr() == ("", "")


def test_encoding_takes_the_mean_of_each_frame_and_the_posterior_on_request(tiny):
    frames = torch.rand(3, 16, 24, 3)
    mean, std = tiny.encode_video(frames, posterior=True)
    assert mean.shape == std.shape == (1, 4, 3, 2, 3)
    assert torch.equal(tiny.encode_video(frames), mean)
    with torch.no_grad():
        expected = tiny.vae.encode(frames.permute(0, 3, 1, 2) * 2 - 1).latent_dist
    torch.testing.assert_close(mean[0].transpose(0, 1), expected.mean * 0.18215)
    torch.testing.assert_close(std[0].transpose(0, 1), expected.std * 0.18215)


def test_decoding_gives_pixels_between_0_and_1(tiny):
    latents = torch.randn(1, 4, 2, 2, 3)
    frames = tiny.decode_video(latents)
    with torch.no_grad():
        expected = tiny.vae.decode(latents[0].transpose(0, 1) / 0.18215).sample / 2 + 0.5
    torch.testing.assert_close(frames, expected.clamp(0, 1).permute(0, 2, 3, 1))
    assert frames.shape == (2, 16, 24, 3)
    assert frames.std() > 0.05


def test_the_vae_sees_one_frame_at_a_time(tiny):
    batches = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
        for layer in (tiny.vae.encoder, tiny.vae.decoder)
    ]
    tiny.decode_video(tiny.encode_video(torch.rand(3, 16, 16, 3)))
    for hook in hooks:
        hook.remove()
    assert batches == [1] * 6


@pytest.mark.parametrize("shape", [(16, 16, 3), (2, 3, 16, 16), (2, 16, 20, 3)])
def test_frames_that_cannot_be_encoded_are_refused(tiny, shape):
    with pytest.raises(TavError, match=r"divisible by 8, got \("):
        tiny.encode_video(torch.rand(shape))


def test_frames_of_bytes_are_encoded_as_the_floats_they_stand_for(tiny):
    frames = torch.randint(256, (2, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tiny.encode_video(frames), tiny.encode_video(frames.float() / 255))
    with pytest.raises(TavError, match=r"float in 0..1 or uint8, .* of torch.int64"):
        tiny.encode_video(frames.long())


def test_latents_of_another_rank_are_refused(tiny):
    with pytest.raises(TavError, match=r"one video, got \(2, 4, 2, 2\)"):
        tiny.decode_video(torch.rand(2, 4, 2, 2))


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_networks_are_frozen_and_of_the_dtype_asked_for(written, name, dtype):
    checkpoint = load_checkpoint(written / name, dtype=dtype)
    for network in (getattr(checkpoint, network) for network in NETWORKS):
        assert not network.training
        assert {(p.dtype, p.device.type, p.requires_grad) for p in network.parameters()} == {(dtype, "cpu", False)}
    assert checkpoint.encode_prompt("a cat").embeds.dtype == dtype
    latents = checkpoint.encode_video(torch.rand(1, 16, 16, 3))
    assert latents.dtype == dtype
    assert checkpoint.decode_video(latents).dtype == torch.float32


def test_opening_prints_nothing(written, capfd):
    load_checkpoint(written / "tiny.safetensors")
    load_checkpoint(written / "tiny")
    assert capfd.readouterr() == ("", "")


# Tokenizer and schedule


def test_the_tokenizer_is_clip_s():
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49408
    assert tokenizer.model_max_length == 77
    # Ids of OpenAI's own tokenizer.
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("Hello, 世界 🐱").input_ids[:3] == [49406, 3306, 267]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_any_scheduler_of_a_folder_becomes_the_original_s_ddim(folder, prediction_type):
    schedule = {"beta_start": 0.001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
    PNDMScheduler(**schedule, prediction_type=prediction_type, skip_prk_steps=True).save_pretrained(
        folder / "scheduler"
    )
    config = load_checkpoint(folder).scheduler.config
    assert (config.steps_offset, config.clip_sample, config.set_alpha_to_one) == (1, False, False)
    assert (config.beta_start, config.beta_end, config.prediction_type) == (0.001, 0.02, prediction_type)
    EulerDiscreteScheduler(**schedule).save_pretrained(folder / "scheduler")  # whose spacing has no inverse
    assert load_checkpoint(folder).scheduler.config.timestep_spacing == "leading"


def test_a_single_file_gets_the_schedule_of_stable_diffusion(tiny):
    # alphas_cumprod[0] and [-1] of Stable Diffusion's own training configuration.
    torch.testing.assert_close(
        tiny.scheduler.alphas_cumprod[[0, -1]], torch.tensor([0.99915, 0.0047]), atol=1e-4, rtol=0
    )
    assert tiny.scheduler.final_alpha_cumprod == tiny.scheduler.alphas_cumprod[0]


def test_a_wide_bias_in_the_last_attention_makes_stable_diffusion_2_a_v_model(variant):
    def widen(tensors):
        name = UNET + "output_blocks.3.1.transformer_blocks.0.norm1.bias"
        return tensors | {name: torch.linspace(-1, 1, len(tensors[name]))}

    assert load_checkpoint(variant(widen, "tiny-sd2")).scheduler.config.prediction_type == "v_prediction"
    assert load_checkpoint(variant(widen, "tiny")).scheduler.config.prediction_type == "epsilon"


# The zoo of variants


def renamed(old, new):
    return lambda tensors: {key.replace(old, new): tensor for key, tensor in tensors.items()}


def without(part):
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if part not in key}


def in_dtype(dtype):
    return lambda tensors: {key: tensor.to(dtype) for key, tensor in tensors.items()}


def with_linear_vae_attention(tensors):
    return {
        key: tensor.flatten(1) if "attn_1" in key and tensor.ndim == 4 else tensor for key, tensor in tensors.items()
    }


def with_company(tensors):
    """What else real files hold: averaged weights, schedules, and the parts of CLIP that prompts do not use."""
    ema = {"model_ema." + key[6:].replace(".", ""): -tensor for key, tensor in tensors.items() if key.startswith(UNET)}
    others = ("betas", "model_ema.decay", TEXT_ENCODER + "logit_scale", TEXT_ENCODER + "text_projection.weight")
    return tensors | ema | {name: torch.ones(1) for name in others}


@pytest.mark.parametrize(
    "change",
    [
        renamed("transformer.text_model.", "transformer."),
        without("position_ids"),
        in_dtype(torch.float32),
        in_dtype(torch.float16),  # position_ids, too
        with_linear_vae_attention,
        with_company,
    ],
    ids=["no text_model", "no position_ids", "float32", "all float16", "linear attention", "company"],
)
def test_the_variants_of_a_file_that_people_share_open_alike(tiny, variant, change):
    assert_same(load_checkpoint(variant(change)), tiny)


def test_open_clip_opens_with_its_projection_and_without(written, variant):
    with_projection = variant(
        lambda tensors: tensors | {TEXT_ENCODER + "model.text_projection": torch.ones(64, 64)}, "tiny-sd2"
    )
    assert_same(load_checkpoint(with_projection), load_checkpoint(written / "tiny-sd2.safetensors"))


def test_a_file_stored_in_bfloat16_opens_in_float32(variant):
    checkpoint = load_checkpoint(variant(in_dtype(torch.bfloat16)))
    assert checkpoint.encode_prompt("a cat").embeds.dtype == torch.float32


def test_a_folder_opens_from_half_precision_names_and_prefers_the_full_ones(tiny, folder):
    for name in NETWORKS:
        (weights,) = (folder / name).glob("*.safetensors")
        half = weights.with_name(weights.name.replace(".safetensors", ".fp16.safetensors"))
        weights.rename(half)
    assert_same(load_checkpoint(folder), tiny)
    full = {
        key: tensor.float() + 1
        for key, tensor in load_file(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").items()
    }
    save_file(full, folder / "vae" / "diffusion_pytorch_model.safetensors")
    opened = load_checkpoint(folder).vae.state_dict()
    assert all(torch.equal(opened[key], full[key]) for key in full)


def test_a_folder_opens_from_shards(tiny, folder):
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = list(load_file(whole).items())
    save_file(dict(tensors[::2]), whole.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
    save_file(dict(tensors[1::2]), whole.with_name("diffusion_pytorch_model-00002-of-00002.safetensors"))
    whole.unlink()
    assert_same(load_checkpoint(folder), tiny)


def test_a_folder_of_the_early_days_opens(tiny, folder):
    (folder / "model_index.json").unlink()
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(weights)
    for new, name in old.items():
        tensors = {
            key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): tensor for key, tensor in tensors.items()
        }
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in tensors
    save_file(tensors, weights)
    assert_same(load_checkpoint(folder), tiny)


# Refusals, each with a one-line error message


@pytest.mark.parametrize(
    ("looks_like", "names"),
    [
        ("LoRA", {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 32)}),
        ("LoRA", {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": (4, 32)}),
        ("LoRA", {"unet.mid_block.attentions.0.to_q.lora.up.weight": (4, 32)}),
        ("VAE alone", {"first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3)}),
        ("VAE alone", {"decoder.conv_in.weight": (512, 4, 3, 3), "quant_conv.bias": (8,)}),
        ("ControlNet", {"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}),
        ("ControlNet", {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3), "conv_in.weight": (320, 4, 3, 3)}),
        ("tuned weights", {"down_blocks.0.attentions.0.transformer_blocks.0.attn_temp.to_q.weight": (4, 4)}),
        ("tuned weights of", {"down_blocks.0.resnets.0.conv1_temp.conv.weight": (4, 4, 3)}),
        ("tuned weights of", {"conv_in.known.conv.weight": (4, 5, 3, 3)}),
        ("tuned weights", {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": (4, 4)}),
        ("text encoder alone", {"text_model.embeddings.token_embedding.weight": (49408, 768)}),
        ("text encoder alone", {"encoder.block.0.layer.0.SelfAttention.k.weight": (4, 4)}),
        ("UNet alone", {"input_blocks.0.0.weight": (320, 4, 3, 3)}),
        ("textual inversion", {"emb_params": (1, 768)}),
        ("IP-Adapter", {"ip_adapter.1.to_k_ip.weight": (4, 4)}),
        ("AnimateDiff", {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (320,)}),
        ("not a Stable Diffusion model", {"something.weight": (1,)}),
        ("not a Stable Diffusion model", {}),
        ("Stable Diffusion XL", {"conditioner.embedders.1.model.ln_final.weight": (1280,), CONTEXT: (1280, 2048)}),
        ("Stable Diffusion 3", {UNET + "joint_blocks.0.context_block.attn.qkv.weight": (4, 4)}),
        ("Flux", {UNET + "double_blocks.0.img_attn.norm.key_norm.scale": (128,)}),
        ("Flux", {"double_blocks.0.img_attn.norm.key_norm.scale": (128,)}),
        ("HunyuanVideo", {"txt_in.individual_token_refiner.blocks.0.norm1.bias": (4,), "double_blocks.0.x": (4,)}),
        ("Wan", {UNET + "blocks.0.self_attn.q.weight": (4, 4), UNET + "head.modulation": (1, 2, 4)}),
        ("LTX-Video", {UNET + "patchify_proj.weight": (4, 4)}),
        ("another architecture", {UNET + "layers.0.adaLN_modulation.0.weight": (4, 4)}),
    ],
)
def test_a_file_that_is_no_checkpoint_of_ours_is_named(tmp_path, looks_like, names):
    save_file({name: torch.zeros(shape) for name, shape in names.items()}, tmp_path / "other.safetensors")
    assert looks_like in refusal(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("looks_like", "changes"),
    [
        ("an inpainting model (9 input channels)", {"input_blocks.0.0.weight": (32, 9, 3, 3)}),
        ("InstructPix2Pix (8", {"input_blocks.0.0.weight": (32, 8, 3, 3)}),
        ("an upscaler (7", {"input_blocks.0.0.weight": (32, 7, 3, 3)}),
        ("a depth-to-image model (5", {"input_blocks.0.0.weight": (32, 5, 3, 3)}),
        ("a video model with 3-D", {"input_blocks.0.0.weight": (32, 4, 3, 3, 3)}),
        ("Stable Video Diffusion", {"input_blocks.1.1.time_stack.0.norm1.weight": (32,)}),
        ("AnimateDiff", {"input_blocks.1.2.motion_modules.0.norm.weight": (32,)}),
        ("like Stable Diffusion XL", {"middle_block.1.transformer_blocks.0.attn2.to_k.weight": (64, 2048)}),
        ("the refiner of", {"middle_block.1.transformer_blocks.0.attn2.to_k.weight": (64, 1280)}),
        ("unCLIP", {"label_emb.0.0.weight": (128, 32)}),
    ],
)
def test_a_unet_of_another_family_is_named(variant, looks_like, changes):
    path = variant(lambda tensors: tensors | {UNET + name: torch.zeros(shape) for name, shape in changes.items()})
    assert looks_like in refusal(path)


@pytest.mark.parametrize(("part", "prefix"), [("VAE", VAE), ("text encoder", TEXT_ENCODER)])
def test_a_pruned_file_s_error_names_what_it_lacks(variant, part, prefix):
    assert f"has no {part}" in refusal(variant(without(prefix)))


@pytest.mark.parametrize(
    "name",
    [
        UNET + "input_blocks.1.0.in_layers.0.weight",
        UNET + "input_blocks.2.0.op.bias",
        UNET + "input_blocks.2.0.op.weight",
        UNET + "output_blocks.1.2.conv.bias",
        UNET + "middle_block.1.proj_in.weight",
        UNET + "time_embed.0.weight",
        UNET + "out.2.weight",
        CONTEXT,
        VAE + "quant_conv.weight",
        VAE + "encoder.conv_in.weight",
        VAE + "encoder.down.0.downsample.conv.bias",
        VAE + "decoder.up.1.upsample.conv.bias",
        VAE + "decoder.mid.attn_1.q.weight",
        TEXT_ENCODER + "transformer.text_model.embeddings.token_embedding.weight",
        TEXT_ENCODER + "transformer.text_model.encoder.layers.0.mlp.fc1.weight",
        TEXT_ENCODER + "transformer.text_model.final_layer_norm.bias",
    ],
)
def test_one_missing_tensor_is_noticed(variant, name):
    message = refusal(variant(without(name)))
    assert "intact checkpoint" in message or "looks like" in message
    assert len(message) < 600


def test_wrong_shapes_and_extra_tensors_are_named(variant):
    wrong = variant(lambda tensors: tensors | {UNET + "time_embed.2.bias": torch.zeros(7)})
    assert "1 misshapen tensors, such as time_embedding.linear_2.bias)" in refusal(wrong)
    more = variant(
        lambda tensors: tensors | {UNET + "input_blocks.1.1.transformer_blocks.1.norm1.bias": torch.zeros(7)}
    )
    assert "1 unknown tensors, such as down_blocks.0.attentions.0.transformer_blocks.1.norm1.bias)" in refusal(more)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin", "model.CKPT"])
def test_pickles_are_refused_with_the_reason_and_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'echo boom'\ntR.")
    message = refusal(tmp_path / name)
    assert "can run any code" in message
    assert "convert it to .safetensors" in message


def test_files_that_are_none_are_refused(tmp_path, written):
    assert "no checkpoint at" in refusal(tmp_path / "absent.safetensors")
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt is not a checkpoint" in refusal(tmp_path / "notes.txt")
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><html>not found</html>")
    assert "download it again" in refusal(tmp_path / "page.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((written / "tiny.safetensors").read_bytes()[:500_000])
    assert "download it again" in refusal(tmp_path / "cut.safetensors")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    assert "download it again" in refusal(tmp_path / "empty.safetensors")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_folder_s_error_names_the_part_it_lacks(folder, part):
    shutil.rmtree(folder / part)
    assert f"The folder folder has no {part}/:" in refusal(folder)


def pickled(folder, name, content=None):
    """Puts a .bin, by default of the same weights, in place of a network's .safetensors."""
    (weights,) = (folder / name).glob("*.safetensors")
    stem = "pytorch_model" if name == "text_encoder" else "diffusion_pytorch_model"
    torch.save(load_file(weights) if content is None else content, folder / name / f"{stem}.bin")
    weights.unlink()
    return folder / name / f"{stem}.bin"


def test_a_folder_of_pickles_opens_like_one_of_safetensors(tiny, folder):
    for name in NETWORKS:
        pickled(folder, name)
    assert_same(load_checkpoint(folder), tiny)


def test_a_folder_opens_from_sharded_pickles_of_half_precision(tiny, folder):
    whole = pickled(folder, "text_encoder")
    tensors = list(torch.load(whole, weights_only=True).items())
    torch.save(dict(tensors[::2]), whole.with_name("pytorch_model.fp16-00001-of-00002.bin"))
    torch.save(dict(tensors[1::2]), whole.with_name("pytorch_model.fp16-00002-of-00002.bin"))
    whole.unlink()
    assert_same(load_checkpoint(folder), tiny)


def test_a_pickle_is_not_even_opened_beside_safetensors(tiny, folder):
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"anything")
    assert_same(load_checkpoint(folder), tiny)


class Malice:
    """Writes a file when a pickle of it is opened carelessly."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return open, (str(self.witness), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_nothing_of_it_is_run(folder, tmp_path, zipped):
    path, witness = pickled(folder, "unet"), tmp_path / "witness"
    content = torch.load(path, weights_only=True) | {"malice": Malice(witness)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = refusal(folder)
    assert "folder/unet/diffusion_pytorch_model.bin contains more than weights: it uses " in message
    assert "could run any code" in message
    assert not witness.exists()
    torch.load(path, weights_only=False)  # the malice is real
    assert witness.exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"epoch": 3}])
def test_a_pickle_of_something_else_is_refused(folder, content):
    pickled(folder, "unet", content)
    assert "folder/unet/diffusion_pytorch_model.bin is not a dict of tensors" in refusal(folder)


@pytest.mark.parametrize("damage", [lambda whole: whole[:50_000], lambda whole: b"", lambda whole: b"version https"])
def test_a_damaged_pickle_is_refused(folder, damage):
    path = pickled(folder, "unet")
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(folder)
    assert "folder/unet/diffusion_pytorch_model.bin is damaged, or not a pickle of weights" in message
    assert "weights_only" not in message


def test_no_pickle_is_opened_by_a_torch_that_could_be_tricked(folder, monkeypatch):
    pickled(folder, "unet")
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.5.1+cpu"))
    assert "which torch 2.5.1+cpu cannot open safely: update torch to 2.6" in refusal(folder)


def test_a_folder_without_weights_is_refused(folder):
    pickled(folder, "unet").unlink()
    assert "folder/unet has no .safetensors or .bin weights" in refusal(folder)


def test_a_damaged_folder_is_refused(folder):
    for vocabulary in (folder / "tokenizer").iterdir():
        vocabulary.unlink()
    assert "folder/tokenizer has no vocabulary" in refusal(folder)
    save_file({"conv_in.weight": torch.zeros(1)}, folder / "vae" / "diffusion_pytorch_model.safetensors")
    assert "The vae/ of folder is damaged or of another kind" in refusal(folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"version https://git-lfs")
    assert "The weights of folder/unet are incomplete" in refusal(folder)
    (folder / "unet" / "config.json").write_text("{")
    assert "folder/unet/config.json cannot be read" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.index_fill(0, torch.tensor([1]), torch.nan), "holds NaN or infinite values"),
        (lambda t: t.index_fill(0, torch.tensor([1]), torch.inf), "holds NaN or infinite values"),
        (lambda t: t.bool(), "holds torch.bool instead of weights"),
        (lambda t: t.long(), "holds torch.int64 instead of weights"),
    ],
)
def test_weights_that_are_no_numbers_are_refused_at_once(folder, change, words):
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({name: change(t) if name == "encoder.conv_in.weight" else t for name, t in tensors.items()}, path)
    assert f"encoder.conv_in.weight {words}" in refusal(folder)


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("unet", {"attention_head_dim": 0}, "attention_head_dim 0 in its config, but .* a whole number from 1"),
        ("unet", {"layers_per_block": 1_000_000}, "layers_per_block 1000000 in its config, but .* from 1 to 16"),
        ("unet", {"down_block_types": ["MagicBlock", "DownBlock2D"]}, r"down_block_types \['MagicBlock'.*Cross"),
        ("unet", {"block_out_channels": []}, r"block_out_channels \[\] in its config"),
        ("unet", {"block_out_channels": [32]}, "settings of the unet/ of folder do not go together"),
        ("unet", {"norm_num_groups": 31}, "settings of the unet/ of folder do not go together"),
        ("unet", {"norm_eps": [0]}, r"norm_eps \[0\] in its config, but Stable Diffusion needs 1e-05"),
        ("unet", {"flip_sin_to_cos": False}, "flip_sin_to_cos False"),  # another network of the same shapes
        ("unet", {"in_channels": []}, r"looks like another model \(\[\] input channels\)"),
        ("unet", {"_class_name": ["x" * 9000]}, "another architecture"),
        ("unet", {"cross_attention_dim": 65}, "unet/ of folder is damaged or of another kind"),
        ("vae", {"scaling_factor": "0.18215"}, "scaling_factor '0.18215' in its config, but .* a number above 0"),
        ("vae", {"scaling_factor": True}, "scaling_factor True"),
        ("vae", {"latent_channels": 10**30}, "latent_channels"),
        ("text_encoder", {"num_hidden_layers": 10**6}, "num_hidden_layers 1000000"),
        ("text_encoder", {"hidden_size": 2**16, "intermediate_size": 2**16}, "misshapen"),  # of 400 GB
        ("text_encoder", {"num_attention_heads": 3}, "settings of the text_encoder/ of folder do not go together"),
        ("text_encoder", {"max_position_embeddings": 64}, "misshapen"),
        ("scheduler", {"beta_start": "0.00085"}, "beta_start '0.00085' in its config"),
        ("scheduler", {"num_train_timesteps": 10**9}, "num_train_timesteps 1000000000"),
        ("scheduler", {"prediction_type": "sample"}, "prediction_type 'sample' .* 'epsilon', 'v_prediction'"),
        ("scheduler", {"trained_betas": ["x"]}, "trained_betas"),
    ],
)
def test_a_config_that_is_not_stable_diffusion_s_is_refused_by_the_setting(folder, part, changes, words):
    edit_json(folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **changes)
    assert re.search(words, message := refusal(folder))
    assert len(message) < 700


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "[1]", '{"in_channels": NaN}', " " * 2**25 + "{}"])
def test_a_config_that_is_no_table_of_settings_is_refused(folder, content):
    (folder / "unet" / "config.json").write_text(content)
    assert "folder/unet/config.json cannot be read" in refusal(folder)


@pytest.mark.skipif(os.name != "posix", reason="named pipes in folders are of POSIX systems")
@pytest.mark.parametrize(
    "name", ["unet/config.json", "vae/diffusion_pytorch_model.safetensors", "tokenizer/extra.json"]
)
def test_a_pipe_in_a_folder_is_not_waited_for(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert "download the folder again" in refusal(folder)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 961143\n"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (name, damage)
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json")
        for damage in (lambda text: "", lambda text: text[: len(text) // 2], lambda text: POINTER)
    ]
    + [
        ("vocab.json", lambda text: "[1]"),
        ("vocab.json", lambda text: text.replace("</w>", "")),
        ("vocab.json", lambda text: text.replace(": 100,", ": 101,")),
        ("merges.txt", lambda text: text + "c at\n"),
        ("tokenizer_config.json", lambda text: '{"bos_token": 7}'),
    ],
)
def test_a_tokenizer_that_was_not_downloaded_whole_is_refused(tmp_path, name, damage):
    folder = tmp_path / "sd" / "tokenizer"
    write_tokenizer(folder).save_pretrained(folder)
    for other in (".DS_Store", "._tokenizer.json", "notes.txt"):  # as macOS and people leave there
        (folder / other).write_bytes(b"\x00\xff")
    assert len(open_tokenizer(folder, 77, 309)) == 309
    path = folder / name
    path.write_text(damage(path.read_text() if path.exists() else '{"bos_token": "<|startoftext|>"}'))
    with pytest.raises(TavError, match=r"tokenizer sd/tokenizer (is damaged|has \d+ tokens)"):
        open_tokenizer(folder, 77, 309)


def test_a_tokenizer_with_more_words_than_the_text_encoder_is_refused(folder):
    tokenizer = clip_tokenizer()
    more = tokenizer.from_pretrained(folder / "tokenizer")
    more.add_tokens("<sks>")
    more.save_pretrained(folder / "tokenizer")
    assert "has 49409 tokens and does not fit its text encoder" in refusal(folder)


def test_a_text_encoder_of_another_width_than_the_unet_s_is_refused(folder, tmp_path):
    config = json.loads((folder / "text_encoder" / "config.json").read_text()) | {"hidden_size": 128}
    from transformers import CLIPTextConfig, CLIPTextModel

    CLIPTextModel(CLIPTextConfig.from_dict(config)).save_pretrained(folder / "text_encoder")
    assert "gives 128 numbers per token, but its UNet takes 64" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        CONTEXT,
        UNET + "input_blocks.0.0.weight",
        UNET + "input_blocks.1.0.out_layers.3.weight",
        UNET + "out.2.weight",
        VAE + "encoder.conv_in.weight",
        VAE + "decoder.mid.attn_1.q.weight",
        TEXT_ENCODER + "transformer.text_model.embeddings.token_embedding.weight",
        TEXT_ENCODER + "transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    ],
)
def test_a_tensor_of_another_rank_is_refused(variant, name):
    def reshaped(tensors):
        return tensors | {name: tensors[name].flatten()}

    assert re.search("damaged|looks like|intact|in its config", refusal(variant(reshaped)))


def test_a_single_file_of_whole_numbers_is_refused(variant):
    assert "holds torch.int32 instead of weights" in refusal(variant(in_dtype(torch.int32)))


@pytest.mark.parametrize(
    ("looks_like", "config"),
    [
        ("a latent consistency model", {"time_cond_proj_dim": 256}),
        ("a video model (UNetSpatioTemporalConditionModel)", {"_class_name": "UNetSpatioTemporalConditionModel"}),
        ("a video model (UNet3DConditionModel)", {"_class_name": "UNet3DConditionModel"}),
        ("Stable Diffusion XL", {"cross_attention_dim": 2048, "addition_embed_type": "text_time"}),
        ("the refiner of", {"cross_attention_dim": 1280}),
        ("an inpainting model (9 input channels)", {"in_channels": 9}),
        ("unCLIP", {"class_embed_type": "projection"}),
    ],
)
def test_a_folder_of_another_family_is_named(folder, looks_like, config):
    edit_json(folder / "unet" / "config.json", **config)
    assert looks_like in refusal(folder)


def test_a_folder_of_a_transformer_is_named(folder):
    (folder / "unet").rename(folder / "transformer")
    edit_json(folder / "transformer" / "config.json", _class_name="FluxTransformer2DModel")
    assert "another architecture (FluxTransformer2DModel)" in refusal(folder)


def test_a_folder_is_never_written_over(folder):
    with pytest.raises(TavError, match="exists already"):
        write_random_checkpoint(folder, size="tiny", layout="diffusers")
