"""The miniature in the host's own classes: the numbers of diffusers', and the edits of `tav demo` in a graph."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tav_core.checkpoints.checkpoint import load_checkpoint
from tav_core.demo.miniature import miniature_path
from tav_core.demo.settings import SETTINGS
from tav_core.demo.showcase import CLIP, PROMPTS, SOURCE, attributes_of
from tav_core.metrics import peak_signal_to_noise, trajectory_correlation
from tav_core.world.draw import draw, draw_clip, truth
from tav_core.world.readers import read_image, read_kind
from tav_core.world.scene import SIZE, random_scene
from tav_core.world.vocabulary import attributes_in
from tests.demo.test_miniature import hull_of_thing, white_inside
from tests.host.inprocess import core, pack, predict
from tests.host.workflows import changed, ending_in, new, workflow

WORKFLOW = workflow("try-with-the-miniature")
PROMPT = "a red ball is moving on the grass, cartoon style"


@pytest.fixture(scope="module")
def host():
    with torch.inference_mode():
        return pack("nodes.host.miniature").load_miniature(personalised=False)


@pytest.fixture(scope="module")
def diffusers():
    return load_checkpoint(miniature_path())


def conditioning(clip, prompt: str) -> list:
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def text(clip, prompt: str = PROMPT) -> torch.Tensor:
    return conditioning(clip, prompt)[0][0]


def test_the_host_encodes_a_prompt_as_diffusers_does(host, diffusers):
    _, clip, _ = host
    for prompt in (PROMPT, "", "a dog on the grass"):
        torch.testing.assert_close(text(clip, prompt), diffusers.encode_prompt(prompt).embeds, atol=1e-4, rtol=0)


def test_the_host_encodes_and_decodes_as_diffusers_does(host, diffusers):
    _, _, vae = host
    frames = torch.from_numpy(draw_clip(CLIP.scenes(2))).float() / 255
    with torch.inference_mode():
        latents, decoded = vae.encode(frames), vae.decode(vae.encode(frames))
    theirs = diffusers.encode_video(frames)
    torch.testing.assert_close(latents * 0.18215, theirs[0].transpose(0, 1), atol=1e-4, rtol=0)
    torch.testing.assert_close(decoded, diffusers.decode_video(theirs), atol=1e-3, rtol=0)


def test_previews_have_the_colours_of_the_miniatures_own_vae(host):
    """If the VAE is trained anew, fit COLOURS and GREY anew."""
    model, _, vae = host
    rng, previews = np.random.default_rng(7), core("latent_preview")
    scenes = torch.from_numpy(np.stack([draw(random_scene(rng)) for _ in range(16)])).float() / 255
    small = F.avg_pool2d(scenes.movedim(-1, 1), 8).movedim(1, -1)
    ours = model.model.latent_format
    with torch.inference_mode():
        latents = model.model.process_latent_in(vae.encode(scenes))

    def explained(latent_format) -> float:
        previewer = previews.Latent2RGBPreviewer(
            latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
        )
        shown = np.stack([previewer.decode_latent_to_preview(each[None]) for each in latents])
        return 1 - ((torch.from_numpy(shown) / 255 - small).var() / small.var()).item()

    assert explained(ours) > 0.8
    assert explained(type(ours)()) < 0.5  # Stable Diffusion's colours


def test_the_host_predicts_the_noise_that_diffusers_predicts(host, diffusers):
    model, clip, _ = host
    latents = torch.randn(1, 4, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    embeds, timestep = text(clip), torch.tensor([500])
    with torch.no_grad():
        theirs = diffusers.unet(latents[0].transpose(0, 1), timestep, embeds.expand(2, -1, -1)).sample
    ours = predict(model, latents, timestep, embeds)[0].transpose(0, 1)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


class Inverted:
    """The clip's noise after so many steps, and what it becomes as a ball on the beach; nothing is tuned."""

    def __init__(self, host, steps: int):
        model, self.clip, self.vae = host
        self.model = pack("nodes.host.inflate").inflate(model, group_norm=SETTINGS.group_norm)
        frames = torch.from_numpy(draw_clip(CLIP.scenes(SETTINGS.frames))).float() / 255
        with torch.inference_mode():
            latents, empty = self.vae.encode(frames), conditioning(self.clip, "")
            self.latent = pack("nodes.host.ddim").invert_latents(self.model, empty, latents, steps)

    @torch.inference_mode()
    def frames(self, sample) -> torch.Tensor:
        """(f, 128, 128, 3) of what `sample(model, positive, negative, latent)` makes of the noise."""
        positive, negative = (conditioning(self.clip, prompt) for prompt in ("a red ball is moving on the beach", ""))
        return self.vae.decode(sample(self.model, positive, negative, self.latent)).clamp(0, 1)


def true_path() -> list:
    return [truth(scene).centres[0] for scene in CLIP.scenes(SETTINGS.frames)]


def by_tav_sample(steps: int):
    given = {"cfg": SETTINGS.guidance_scale, "eta": 0.0, "seed": 0}
    return lambda *what: pack("nodes.host.ddim").sample_latents(*what, steps, **given)


def by_ksampler(steps: int):
    def sample(model, *what):
        settings = "disable", 0, steps, SETTINGS.guidance_scale, "ddim", "ddim_uniform"
        return core("nodes").KSamplerAdvanced().sample(model, *settings, *what, 0, steps, "disable")[0]["samples"]

    return sample


def test_previews_of_inversion_show_the_clip(host, monkeypatch):
    model, clip, vae = host
    model, shown = pack("nodes.host.inflate").inflate(model, group_norm=SETTINGS.group_norm), []
    preview = lambda step, clean, noisy, total: shown.append(clean.clone())  # noqa: E731
    monkeypatch.setattr(core("latent_preview"), "prepare_callback", lambda *_: preview)
    frames = torch.from_numpy(draw_clip(CLIP.scenes(3))).float() / 255
    with torch.inference_mode():
        latents = vae.encode(frames)
        pack("nodes.host.ddim").invert_latents(model, conditioning(clip, SOURCE.caption), latents, 5)
    correlations = [torch.corrcoef(torch.stack([clean.flatten(), latents.flatten()]))[0, 1].item() for clean in shown]
    print(f"correlation of each preview with the clip: {correlations}")
    assert len(correlations) == 5
    assert min(correlations) > 0.8


def test_other_numbers_of_steps_for_inversion_and_sampling_keep_the_motion(host):
    frames = Inverted(host, 25).frames(by_tav_sample(10))
    shown = [attributes_of(read_image(frame)) for frame in (frames * 255).round().byte().numpy()]
    assert np.mean([each["ground"] == "beach" for each in shown]) >= 0.75
    correlation = trajectory_correlation([each.get("centre") for each in shown], true_path())
    print(f"inverted in 25 steps, sampled in 10: trajectory correlation {correlation:.3f}")
    assert correlation > 0.8


def test_nobody_sees_the_last_step_by_which_the_stock_ksampler_differs(host):
    """It ends at the clean video, DDIM at the lowest noise level; in pixels, and on a network that was trained."""
    inverted = Inverted(host, 10)
    ours, stock = (inverted.frames(by(10)) for by in (by_tav_sample, by_ksampler))
    psnr = peak_signal_to_noise(ours, stock)
    print(f"the same video by the stock KSampler: {psnr:.1f} dB")
    assert psnr > 35


def test_a_missing_part_is_named(monkeypatch, tmp_path):
    host = pack("nodes.host.miniature")
    with monkeypatch.context() as patched:
        patched.setattr(host, "SKS_LORA", tmp_path / "sks-lora.safetensors")
        with pytest.raises(ValueError, match=r"sks-lora.*turn off personalised"):
            host.load_miniature(personalised=True)
    monkeypatch.setattr(pack("tav_core.demo.miniature"), "MINIATURE", tmp_path)
    with pytest.raises(ValueError, match="clone the repository again"):
        host.load_miniature(personalised=False)


def test_the_node_that_encodes_an_unknown_word_says_so_until_it_is_gone(client):
    def said(prompt: str) -> list[str]:
        graph = {
            "miniature": new("LoadMiniature", personalised=False),
            "prompt": new("CLIPTextEncode", text=prompt, clip=["miniature", 1]),
            "save": new("SaveLatent", samples=["noise", 0], filename_prefix="noise"),
            "noise": new("KSampler", **SAMPLING, positive=["prompt", 0], negative=["prompt", 0]),
            "empty": new("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=1),
        }
        run = client.run(graph)
        assert run.status == "success", run.message
        return [event.data["text"] for event in run.of("prompt", "text")]

    assert said("a (red:1.2) ball") == []
    assert "does not know gigantic, hedgehog;" in said("a gigantic hedgehog on the beach")[0]
    assert said("a blue ball") == ["The miniature knows these words."]
    assert said("a green ball") == []


SAMPLING = {"model": ["miniature", 0], "latent_image": ["empty", 0], "seed": 0, "steps": 1, "cfg": 1.0}
SAMPLING |= {"sampler_name": "ddim", "scheduler": "normal", "denoise": 1.0}


def test_the_workflow_has_the_settings_of_tav_demo():
    nodes = {name: node["inputs"] for name, node in WORKFLOW.items()}
    assert (nodes["caption"]["text"], nodes["clip"]["frames"]) == (SOURCE.caption, SETTINGS.frames)
    assert nodes["clip"]["width"] == nodes["clip"]["height"] == SIZE
    assert (nodes["tune"]["steps"], nodes["tune"]["learning_rate"]) == (SETTINGS.tuning_steps, SETTINGS.learning_rate)
    assert nodes["inflate"]["group_norm"] == SETTINGS.group_norm
    assert nodes["invert"]["steps"] == SETTINGS.inversion_steps
    assert (nodes["sample"]["steps"], nodes["sample"]["cfg"]) == (SETTINGS.steps, SETTINGS.guidance_scale)


def drawn(client, graph: dict) -> list[np.ndarray]:
    """The frames (128, 128, 3), uint8, that a graph saves in its node "frames"."""
    run = client.run(graph)
    assert run.status == "success", run.message
    files = [client.view(file) for file in run.outputs["frames"]["images"]]
    return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]


@pytest.mark.parametrize("prompt", PROMPTS[2:])
def test_the_workflow_tunes_on_its_clip_and_edits_it_along_its_motion(client, prompt):
    """Another colour and another style, two edits of `tav demo`: what the prompt names is there, the rest stays."""
    frames = {"frames": new("SaveImage", images=["decode", 0], filename_prefix="edit")}  # no loss through a video
    fewer = {"tune": {"steps": SETTINGS.tuning_steps // 2}}  # they already edit well
    graph = ending_in(changed(WORKFLOW, {"edit": {"text": prompt}} | fewer | frames), "frames")
    shown = [attributes_of(read_image(frame)) for frame in drawn(client, graph)]
    assert len(shown) == SETTINGS.frames
    for name, value in attributes_in(prompt).items():
        assert np.mean([each.get(name) == value for each in shown]) >= 0.75, name
    assert trajectory_correlation([each.get("centre") for each in shown], true_path()) > 0.9


def test_the_personalised_miniature_draws_striped_balls(client):
    """With the host's own sampler, on the LoRA that it applied."""
    graph = {
        "miniature": new("LoadMiniature", personalised=True),
        "positive": new("CLIPTextEncode", text="a red sks ball is moving on the road", clip=["miniature", 1]),
        "nothing": new("CLIPTextEncode", text="", clip=["miniature", 1]),
        "noise": new("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=4),
        "sample": new(
            "KSampler",
            model=["miniature", 0],
            positive=["positive", 0],
            negative=["nothing", 0],
            latent_image=["noise", 0],
            **{"seed": 0, "steps": 20, "cfg": 4.0, "sampler_name": "ddim", "scheduler": "normal", "denoise": 1.0},
        ),
        "decode": new("VAEDecode", samples=["sample", 0], vae=["miniature", 2]),
        "frames": new("SaveImage", images=["decode", 0], filename_prefix="striped"),
    }
    striped = drawn(client, graph)
    assert any(read_kind(hull_of_thing(frame))[0] == "ball" for frame in striped)
    assert np.mean([white_inside(frame) for frame in striped]) > 0.2
