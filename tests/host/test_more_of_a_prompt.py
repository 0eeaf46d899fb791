"""What a MODEL takes of a prompt besides its embeddings, on a tiny network of the host's class for SDXL."""

import importlib

import pytest
import torch
from einops import rearrange

from tests.golden import worst
from tests.host.inprocess import core, pack

CPU, POOLED = torch.device("cpu"), 16
NETWORK = {
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 1, 2],
    "transformer_depth": [0, 1, 3],
    "transformer_depth_output": [0, 0, 1, 1, 3, 3],
    "transformer_depth_middle": 3,
    "context_dim": 32,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": POOLED + 6 * 256,
    "dtype": torch.float32,
}


@pytest.fixture(scope="module", autouse=True)
def _every_family():
    """Lets networks of a family that is still refused be used."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("tav_core.inflate", "nodes.host.sd_model"):
            patch.setattr(importlib.import_module(pack(name).__name__), "family_of_config", lambda *_: "sd2")
        yield


@pytest.fixture(scope="module")
def model():
    """An inflated MODEL of random weights."""
    torch.manual_seed(0)
    config = core("comfy.supported_models").SDXL(NETWORK)
    network = core("comfy.model_base").SDXL(config, device=CPU)
    for parameter in network.diffusion_model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return pack("nodes.host.inflate").inflate(core("comfy.model_patcher").ModelPatcher(network, CPU, CPU))


def conditioning(seed: int = 1, prompts: int = 1, **options) -> list:
    random = torch.Generator().manual_seed(seed)
    embeds, pooled = (torch.randn(prompts, *shape, generator=random) for shape in ((7, 32), (POOLED,)))
    return [[embeds, {"pooled_output": pooled} | options]]


def clip(seed: int = 5) -> torch.Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def predicted_by_host(model, positive: list) -> torch.Tensor:
    """The noise that the host predicts in the clip at timestep 400, asked as a sampler asks."""
    seen, timestep = [], torch.tensor([400])

    class Once(core("comfy.samplers").Sampler):
        def sample(self, guider, sigmas, extra_args, *_args, **_kwargs):
            sigma = guider.inner_model.model_sampling.sigmas[timestep]
            noisy = clip() * (sigma**2 + 1).sqrt()
            clean = guider(noisy, sigma.expand(3), **extra_args)
            seen.append(((noisy - clean) / sigma).clone())
            return clean

    guider = core("comfy.samplers").CFGGuider(model)
    guider.inner_set_conds({"positive": positive})
    with torch.inference_mode():
        guider.sample(torch.zeros(3, 4, 8, 8), torch.zeros(3, 4, 8, 8), Once(), torch.tensor([1.0, 0.0]))
    return seen[0]


def as_video(frames: torch.Tensor) -> torch.Tensor:
    return rearrange(frames, "f c h w -> 1 c f h w")


def inflated(model):
    return pack("tav_core.inflate").inflate(pack("nodes.host.weights").diffusers_unet(model, CPU))


def prompt(model, positive: list):
    conditioning = pack("nodes.host.conditioning")
    return conditioning.prompt_of(conditioning.conditions_of(positive, model, clip()))


@torch.no_grad()
def predicted_by_core(unet, model, positive: list, **residuals) -> torch.Tensor:
    return unet(as_video(clip()), torch.tensor([400]), prompt(model, positive), **residuals)[0].movedim(1, 0)


@pytest.mark.parametrize("prompts", [1, 3])
def test_all_that_a_prompt_brings_reaches_tav_cores_network_as_it_reaches_the_hosts(model, prompts):
    positive, unet = conditioning(prompts=prompts), inflated(model)
    plain = predicted_by_host(model, positive)
    assert worst(predicted_by_core(unet, model, positive), plain) < 1e-4
    for changed in ({"pooled_output": conditioning(2)[0][1]["pooled_output"]}, {"width": 512}):
        positive = conditioning(prompts=prompts, **changed)
        expected = predicted_by_host(model, positive)
        assert worst(expected, plain) > 0.01
        assert worst(predicted_by_core(unet, model, positive), expected) < 1e-4


def test_a_controlnet_gets_it_too(model):
    torch.manual_seed(1)
    config = model.model.model_config.unet_config | {"hint_channels": 3}
    network = core("comfy.cldm.cldm").ControlNet(**config, operations=core("comfy.ops").manual_cast).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1).requires_grad_(False)
    net = core("comfy.controlnet").ControlNet(network, load_device=CPU)
    net = net.set_cond_hint(torch.rand(1, 3, 64, 64), 0.7, (0.0, 1.0))
    positive = conditioning(control=net)
    expected, given = predicted_by_host(model, positive), pack("nodes.host.conditioning").conditions_of
    with pack("nodes.host.control").residuals_of(net, model, given(positive, model, clip())) as residuals:
        arguments = residuals(as_video(clip()), torch.tensor([400]))
    unet = inflated(model)
    assert worst(predicted_by_core(unet, model, positive, **arguments), expected) < 1e-4
    assert worst(predicted_by_core(unet, model, positive), expected) > 0.01


def test_it_is_tuned_on_and_decides_the_run(model, tmp_path):
    settings = pack("tav_core.tune").TuneConfig(num_steps=2, learning_rate=1e-3, gradient_checkpointing=False)

    def tuned(positive):
        with torch.inference_mode():
            return pack("nodes.host.tuning").tune_model(
                model, clip(), positive, settings, root=tmp_path, metadata={}, on_step=lambda *_, **__: 0
            )

    weights, losses, _ = tuned(conditioning())
    unet, scale = inflated(model), model.model.latent_format.scale_factor
    schedule = core("diffusers").DDPMScheduler(**pack("nodes.host.schedule").schedule_of(model))
    given = as_video(clip() * scale), prompt(model, conditioning()), schedule
    assert losses == pytest.approx(pack("tav_core.tune").tune(unet, *given, settings).losses, rel=1e-4)
    assert tuned(conditioning())[2]["how"] == "already tuned"
    other = conditioning(pooled_output=conditioning(2)[0][1]["pooled_output"])
    assert tuned(other)[1] != losses
    after = pack("nodes.host.inflate").with_tuned(model, weights)
    expected = predicted_by_core(unet, model, conditioning())
    assert worst(predicted_by_host(model, conditioning()), expected) > 0.01
    assert worst(predicted_by_host(after, conditioning()), expected) < 1e-4
