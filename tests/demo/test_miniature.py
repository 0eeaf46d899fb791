"""The miniature that comes with the package: what it weighs and is made of, and that it draws what a prompt says."""

import copy
import json

import cv2
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from tav_core.checkpoints.checkpoint import load_checkpoint
from tav_core.checkpoints.lora import Lora, fuse_loras
from tav_core.ddim import invert, sample
from tav_core.demo.miniature import MINIATURE, SKS_LORA, miniature_path
from tav_core.demo.showcase import CLIP, attributes_of
from tav_core.inflate import inflate
from tav_core.metrics import peak_signal_to_noise
from tav_core.prediction import NoisePredictor, as_noise, guided
from tav_core.world.draw import draw, draw_clip
from tav_core.world.readers import read_image, read_kind
from tav_core.world.scene import COLOURS, GROUNDS, SHAPES, Scene, Thing, random_scene

MEGABYTES, STEPS = 16, 8
SCENES = [Scene((Thing(SHAPES[i % 4], colour),), GROUNDS[i % 6]) for i, colour in enumerate(COLOURS)]


@pytest.fixture(scope="module")
def miniature():
    return load_checkpoint(miniature_path())


def config(part: str) -> dict:
    return json.loads((MINIATURE / part / "config.json").read_text())


def test_it_weighs_little():
    assert sum(file.stat().st_size for file in MINIATURE.rglob("*") if file.is_file()) < MEGABYTES * 1e6


def test_it_has_what_comfyui_takes_for_granted():
    unet, vae, text = config("unet"), config("vae"), config("text_encoder")
    assert not any(width % unet["block_out_channels"][0] for width in unet["block_out_channels"])
    assert not any(width % vae["block_out_channels"][0] for width in vae["block_out_channels"])
    assert len(vae["block_out_channels"]) == 4
    assert vae["mid_block_add_attention"]
    assert (vae["latent_channels"], vae["scaling_factor"]) == (4, 0.18215)
    assert text["max_position_embeddings"] == 77


def test_scaled_latents_have_mean_0_and_deviation_1(miniature):
    rng = np.random.default_rng(5)
    pictures = torch.from_numpy(np.stack([draw(random_scene(rng)) for _ in range(64)])).float() / 255
    latents = miniature.encode_video(pictures)
    assert latents.mean(dim=(0, 2, 3, 4)).abs().max() < 0.15
    assert (latents.std(dim=(0, 2, 3, 4)) - 1).abs().max() < 0.15


def test_as_a_network_that_predicts_velocity_it_reconstructs_and_the_originals_way_does_not(miniature, record_property):
    """Its noise prediction, given as velocity; the original inverts with that as if it were the noise."""
    source = torch.from_numpy(draw_clip(CLIP.scenes(2))).float() / 255
    inflated = inflate(copy.deepcopy(miniature.unet), group_norm="frame")
    see_noise = NoisePredictor(inflated, miniature.encode_prompt(""), miniature.scheduler)
    scheduler = DDIMScheduler.from_config(miniature.scheduler.config, prediction_type="v_prediction")

    def velocity(latents, timestep):
        alpha = scheduler.alphas_cumprod[timestep]
        return (see_noise(latents, timestep) - (1 - alpha).sqrt() * latents) / alpha.sqrt()

    found, latents = {}, miniature.encode_video(source)
    for way, predict in (("ours", as_noise(velocity, scheduler)), ("the original's", velocity)):
        noise = invert(predict, latents, scheduler, STEPS)[-1]
        again = sample(as_noise(velocity, scheduler), noise, scheduler, STEPS)
        found[way] = peak_signal_to_noise(miniature.decode_video(again), source)
        record_property(f"psnr_db_{way}", found[way])
    print(f"v-prediction, inverted in {found}")
    assert found["ours"] > 28
    assert found["the original's"] < 20


def drawn(checkpoint, captions: list[str], guidance_scale: float = 4.0) -> np.ndarray:
    """(n, 128, 128, 3) uint8: an image for each caption."""
    unet = inflate(checkpoint.unet, attention="frame", group_norm="frame", temporal=False)
    cond = NoisePredictor(unet, checkpoint.encode_prompt(captions), checkpoint.scheduler)
    empty = NoisePredictor(unet, checkpoint.encode_prompt(""), checkpoint.scheduler)
    noise = torch.randn(len(captions), 4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    latents = sample(guided(cond, empty, guidance_scale), noise, checkpoint.scheduler, STEPS)
    images = torch.cat([checkpoint.decode_video(latent[None]) for latent in latents])
    return (images * 255).round().byte().numpy()


def test_it_draws_what_the_prompt_says():
    images = drawn(load_checkpoint(miniature_path()), [scene.caption for scene in SCENES])
    shown = [attributes_of(read_image(image)) for image in images]
    for name in ("ground", "colour", "kind"):
        wanted = [getattr(scene if name == "ground" else scene.things[0], name) for scene in SCENES]
        right = [each.get(name) == value for each, value in zip(shown, wanted, strict=True)]
        assert np.mean(right) > 0.7, f"{name}: {right}"


def hull_of_thing(image: np.ndarray) -> np.ndarray:
    """The convex hull (128, 128) of the largest thing's pixels, bands and all."""
    mask = read_image(image).things[0].mask.astype(np.uint8)
    points = cv2.convexHull(cv2.findNonZero(mask))
    return cv2.fillConvexPoly(np.zeros_like(mask), points, 1).astype(bool)


def white_inside(image: np.ndarray) -> float:
    """The share of white in a thing's hull, a few pixels from its edge."""
    inside = cv2.erode(hull_of_thing(image).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    return float((image.min(axis=2) > 170)[inside].mean())


def test_its_lora_draws_striped_balls_through_diffusers_own_loader():
    pytest.importorskip("peft", reason="diffusers reads LoRAs through peft")
    from diffusers import StableDiffusionPipeline

    captions = [f"a {colour} sks ball is moving on the road" for colour in ("red", "blue")]
    plain = drawn(load_checkpoint(miniature_path()), [caption.replace("sks ", "") for caption in captions])
    pipeline = StableDiffusionPipeline.from_pretrained(
        miniature_path(), torch_dtype=torch.float32, local_files_only=True
    )
    pipeline.load_lora_weights(SKS_LORA)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    how = {"num_inference_steps": STEPS, "guidance_scale": 4.0, "generator": generator, "output_type": "np"}
    striped = (pipeline(captions, **how).images * 255).round().astype(np.uint8)
    assert any(read_kind(hull_of_thing(image))[0] == "ball" for image in striped)
    assert np.mean([white_inside(image) for image in plain]) < 0.1
    assert np.mean([white_inside(image) for image in striped]) > 0.2


def test_its_lora_draws_striped_balls_when_it_is_fused_and_strength_0_is_without_it():
    """A LoRA that was trained: what the shell does with `--lora`, up to the image."""
    pytest.importorskip("peft", reason="diffusers reads LoRAs through peft")
    captions, white = [f"a {colour} sks ball is moving on the road" for colour in ("red", "blue")], []
    for strength in (0.0, 1.0):
        checkpoint = load_checkpoint(miniature_path())
        fuse_loras(checkpoint, [Lora(SKS_LORA, strength)])
        white.append(np.mean([white_inside(image) for image in drawn(checkpoint, captions)]))
    assert white[0] < 0.1
    assert white[1] > 0.2
