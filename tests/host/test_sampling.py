"""DDIM over a MODEL: against tav_core's, and against the host's own samplers on the same noise."""

import re
from types import SimpleNamespace

import pytest
import torch
from einops import rearrange

from tests.golden import worst
from tests.host.assets import CHECKPOINT, CONTROLNET, LORA
from tests.host.inprocess import checkpoint, core, executed, miniature, pack
from tests.host.test_parity import diffusers_twin, random, tuned_weights

SCALE = 0.18215  # Stable Diffusion 1.x: LATENTs are unscaled, tav_core's latents are times this


@pytest.fixture(scope="module")
def sd():
    return miniature()


@pytest.fixture(scope="module")
def reduced(models):
    """The checkpoint of Stable Diffusion's layout, for LoRAs and control."""
    return checkpoint(models / "checkpoints" / CHECKPOINT)


def with_random_weights(sd):
    """A MODEL with tuned weights, and tav_core's network with the same."""
    unet = diffusers_twin(sd.model)
    weights = tuned_weights(unet)
    weights.apply(unet)
    return pack("nodes.host.inflate").with_tuned(sd.model, weights), unet


@pytest.fixture(scope="module")
def tuned(sd):
    return with_random_weights(sd)


@pytest.fixture(scope="module")
def tuned_reduced(reduced):
    return with_random_weights(reduced)


@pytest.fixture(scope="module")
def clip():
    return random(3, 4, 8, 8, seed=3, scale=5.0)


def inverted(model, sd, clip, steps):
    with torch.inference_mode():
        return pack("nodes.host.ddim").invert_latents(model, sd.text(""), clip, steps)


def sampled(model, sd, latent, steps, *, positive=None, cfg=3.0, eta=0.0, seed=0):
    positive = positive or sd.text("a man is skiing")
    with torch.inference_mode():
        return pack("nodes.host.ddim").sample_latents(
            model, positive, sd.text(""), latent, steps, cfg=cfg, eta=eta, seed=seed
        )


def to_core(samples):
    return rearrange(samples.clone() * SCALE, "f c h w -> 1 c f h w")


def from_core(latents):
    return rearrange(latents, "1 c f h w -> f c h w") / SCALE


def relative(got, expected):
    return worst(got, expected) / expected.abs().mean().item()


def core_scheduler(model):
    return pack("nodes.host.ddim").ddim_scheduler(model)


def predictor(unet, conditioning, scheduler):
    return pack("tav_core").NoisePredictor(unet, conditioning[0][0].clone(), scheduler)


@pytest.mark.parametrize(("inversion_steps", "sampling_steps"), [(8, 8), (8, 5), (1, 3)])
def test_inversion_and_an_edit_are_tav_cores(sd, tuned, clip, inversion_steps, sampling_steps):
    """Also where they take different numbers of steps, from another noise level than the inversion ended at."""
    (model, unet), ddim = tuned, pack("tav_core")
    scheduler = core_scheduler(model)
    cond, uncond = (predictor(unet, sd.text(text), scheduler) for text in ("a man is skiing", ""))
    noise = ddim.invert(uncond, to_core(clip), scheduler, inversion_steps)[-1]
    latent = inverted(model, sd, clip, inversion_steps)
    scale = scheduler.alphas_cumprod[latent["tav_timestep"]] ** -0.5
    assert relative(latent["samples"] / scale, from_core(noise)) < 1e-3
    expected = ddim.sample(ddim.guided(cond, uncond, 3.0), noise, scheduler, sampling_steps)
    got = sampled(model, sd, latent, sampling_steps)
    print(f"{inversion_steps}/{sampling_steps} steps: {relative(got, from_core(expected)):.1e} of the mean magnitude")
    assert relative(got, from_core(expected)) < 1e-3


def test_the_schedule_is_the_checkpoints(reduced):
    sd = reduced
    read = pack("tav_core.checkpoints.checkpoint").load_checkpoint(sd.path, device=torch.device("cpu"))
    ours = core_scheduler(sd.model)
    assert worst(ours.alphas_cumprod, read.scheduler.alphas_cumprod) < 1e-6
    names = ("timestep_spacing", "steps_offset", "set_alpha_to_one", "clip_sample", "num_train_timesteps")
    assert {name: ours.config[name] for name in names} == {name: read.scheduler.config[name] for name in names}


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_stock_ksampler_gives_the_same_video_but_for_the_last_step(sd, tuned, clip, sampler, monkeypatch):
    """The host ends at sigma 0, at the clean video that the last prediction means; DDIM ends at alphas_cumprod[0]."""
    model, latent, clean = tuned[0], inverted(tuned[0], sd, clip, 10), []
    preview = core("latent_preview")
    prepare = preview.prepare_callback
    monkeypatch.setattr(preview, "prepare_callback", lambda *args: watch(prepare(*args), clean))
    ours = sampled(model, sd, latent, 10)
    last = clean[-1] / SCALE
    with torch.inference_mode():
        (stock,) = core("nodes").KSamplerAdvanced().sample(
            model, "disable", 0, 10, 3.0, sampler, "ddim_uniform", sd.text("a man is skiing"), sd.text(""),
            latent, 0, 10000, "disable",
        )  # fmt: skip
    errors = relative(stock["samples"], last), worst(stock["samples"], ours)
    print(f"{sampler}: all but the last step {errors[0]:.1e}, with it {errors[1]:.3f}")
    assert relative(stock["samples"], last) < 1e-3
    assert relative(stock["samples"], ours) < 0.3


def watch(callback, clean):
    def watched(step, x0, x, total):
        clean.append(x0.clone())
        callback(step, x0, x, total)

    return watched


def test_previews_of_sampling_show_the_clean_video_that_the_model_predicts(sd, tuned, monkeypatch):
    model, predicted, shown = tuned[0].clone(), [], []
    model.set_model_sampler_post_cfg_function(lambda given: predicted.append(given["denoised"]) or given["denoised"])
    preview = lambda step, clean, noisy, total: shown.append((step, total, clean.clone()))  # noqa: E731
    monkeypatch.setattr(core("latent_preview"), "prepare_callback", lambda *_: preview)
    sampled(model, sd, {"samples": torch.zeros(3, 4, 8, 8)}, 4)
    assert [step[:2] for step in shown] == [(i, 4) for i in range(4)]
    assert all(relative(clean, prediction) < 1e-3 for (*_, clean), prediction in zip(shown, predicted, strict=True))


def test_sampler_custom_advanced_takes_the_sigmas(sd, tuned, clip, monkeypatch):
    """At a number of steps, 7, for which no stock scheduler visits the same noise levels."""
    model, latent, clean = tuned[0], inverted(tuned[0], sd, clip, 7), []
    preview, samplers = core("latent_preview"), core("comfy.samplers")
    prepare = preview.prepare_callback
    monkeypatch.setattr(preview, "prepare_callback", lambda *args: watch(prepare(*args), clean))
    sampled(model, sd, latent, 7)
    sigmas = pack("nodes.host.ddim").sampling_sigmas(model, 7)
    assert len(sigmas) == 8
    assert sigmas[-1] == 0
    guider = samplers.CFGGuider(model)
    guider.set_conds(sd.text("a man is skiing"), sd.text(""))
    guider.set_cfg(3.0)
    custom = core("comfy_extras.nodes_custom_sampler")
    noise = custom.DisableNoise.execute().result[0]
    with torch.inference_mode():
        out = custom.SamplerCustomAdvanced.execute(noise, guider, samplers.sampler_object("euler"), sigmas, latent)
    assert relative(out.result[0]["samples"], clean[len(clean) // 2 - 1] / SCALE) < 1e-3


def test_v_prediction_with_zero_terminal_snr_is_inverted_and_sampled_as_tav_core_does(sd, clip):
    """A node of the host may change what the MODEL predicts."""
    (model,) = core("comfy_extras.nodes_model_advanced").ModelSamplingDiscrete().patch(sd.model, "v_prediction", True)
    unet, ddim, host = diffusers_twin(sd.model), pack("tav_core"), pack("nodes.host.inflate")
    model = host.inflate(model)
    assert pack("nodes.host.schedule").prediction_type_of(model) == "v_prediction"
    scheduler = type(core_scheduler(model)).from_config(core_scheduler(model).config, prediction_type="v_prediction")
    uncond = predictor(unet, sd.text(""), scheduler)
    noise = ddim.invert(uncond, to_core(clip), scheduler, 6)[-1]
    latent = inverted(model, sd, clip, 6)
    scale = scheduler.alphas_cumprod[latent["tav_timestep"]] ** -0.5
    assert relative(latent["samples"] / scale, from_core(noise)) < 1e-3
    expected = ddim.sample(uncond, noise, scheduler, 4)
    assert relative(sampled(model, sd, latent, 4, positive=sd.text(""), cfg=1.0), from_core(expected)) < 1e-3


def test_fresh_noise_and_eta_come_from_the_seed(sd, tuned):
    empty = {"samples": torch.zeros(3, 4, 8, 8)}
    videos = [
        sampled(tuned[0], sd, empty, 3, eta=eta, seed=s)
        for eta, s in ((0.0, 1), (0.0, 1), (0.0, 2), (0.5, 1), (0.5, 1))
    ]
    same = [
        torch.equal(a, b)
        for a, b in ((videos[0], videos[1]), (videos[0], videos[2]), (videos[0], videos[3]), (videos[3], videos[4]))
    ]
    assert same == [True, False, False, True]
    assert all(video.isfinite().all() for video in videos)


def test_an_area_a_mask_and_a_range_on_the_conditioning_are_honoured(sd, tuned, clip):
    latent, plain = inverted(tuned[0], sd, clip, 4), sd.text("a man is skiing")
    with_area = [[text, options | {"area": (4, 8, 0, 0), "strength": 1.0}] for text, options in sd.text("a dog")]
    never = [[text, options | {"start_percent": 0.999, "end_percent": 1.0}] for text, options in sd.text("a dog")]
    left = torch.zeros(1, 64, 64)
    left[..., :32] = 1
    with_mask = [[text, options | {"mask": left, "mask_strength": 1.0}] for text, options in sd.text("a dog")]
    everywhere = sampled(tuned[0], sd, latent, 4, positive=plain)
    assert worst(sampled(tuned[0], sd, latent, 4, positive=plain + with_mask), everywhere) > 0.01
    assert worst(sampled(tuned[0], sd, latent, 4, positive=plain + with_area), everywhere) > 0.01
    assert torch.allclose(sampled(tuned[0], sd, latent, 4, positive=plain + never), everywhere, atol=1e-4)


def test_a_controlnet_on_the_conditioning_is_honoured(reduced, tuned_reduced, models):
    sd, model = reduced, tuned_reduced[0]
    net = core("comfy.controlnet").load_controlnet(str(models / "controlnet" / CONTROLNET))
    hint = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    positive, _ = (
        core("nodes")
        .ControlNetApplyAdvanced()
        .apply_controlnet(sd.text("a man is skiing"), sd.text(""), net, hint, 1.0, 0.0, 1.0)
    )
    noise = {"samples": torch.zeros(3, 4, 8, 8)}
    steered = sampled(model, sd, noise, 2, positive=positive)
    assert steered.isfinite().all()
    assert worst(steered, sampled(model, sd, noise, 2)) > 0.01


def test_a_lora_may_come_before_or_after(reduced, tuned_reduced, models):
    sd, model, host = reduced, tuned_reduced[0], pack("nodes.host.inflate")
    weights, noise = host.inflated_of(model).tuned, {"samples": torch.zeros(3, 4, 8, 8)}
    before = host.with_tuned(sd.with_lora(models / "loras" / LORA), weights)
    after = sd.with_lora(models / "loras" / LORA, host.with_tuned(sd.model, weights))
    one, other, without = (sampled(each, sd, noise, 2) for each in (before, after, model))
    assert relative(one, other) < 1e-4
    assert relative(one, without) > 1e-3


def test_a_model_that_overflows_is_refused_with_what_helps(sd, tuned, clip):
    model = tuned[0].clone()
    model.set_model_unet_function_wrapper(
        lambda apply, asked: apply(asked["input"], asked["timestep"], **asked["c"]) + torch.inf
    )
    with pytest.raises(ValueError, match=r"bf16 or fp32.*--force-fp32"):
        inverted(model, sd, clip, 2)


@pytest.mark.parametrize(
    ("name", "node", "where", "work"),
    [
        ("ddim_invert", "DDIMInvert", "nodes.host.ddim", "invert_latents"),
        ("tav_sample", "TAVSample", "nodes.host.ddim", "sample_latents"),
        ("load_video_frames", "LoadVideoFrames", "tav_core.video.read", "take_frames"),
    ],
)
def test_a_node_that_runs_out_of_memory_says_what_to_lower(sd, tuned, clip, name, node, where, work, monkeypatch):
    def full(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    module, nothing = pack(f"nodes.{name}"), {"samples": torch.zeros(3, 4, 8, 8)}
    monkeypatch.setattr(pack(where), work, full)
    given = {
        "DDIMInvert": (tuned[0], sd.text(""), {"samples": clip}, 2, False),
        "TAVSample": (tuned[0], sd.text("a dog"), sd.text(""), nothing, 0, 2, 1.0, 0.0),
        "LoadVideoFrames": ("", 2, 0, 0, 64, 64, "crop", pack("nodes.host.miniature").example_clip()),
    }[node]
    with pytest.raises(ValueError, match="fewer frames or a smaller size"):
        executed(getattr(module, node), *given)


def test_a_clean_video_that_kept_the_key_of_its_noise_is_not_taken_for_noise(sd, tuned, clip):
    """As the host's samplers leave it, which copy all keys."""
    latents, latent = pack("nodes.host.latents"), inverted(tuned[0], sd, clip, 10)
    assert latents.timestep_of(latent, sd.model) == 901
    with pytest.raises(ValueError, match="already noise"):
        latents.check_clean(latent, sd.model)
    latents.check_clean(latent | {"samples": clip}, sd.model)
    with pytest.raises(ValueError, match="neither empty nor from DDIM Invert"):
        latents.check_samplable(latent | {"samples": clip}, sd.model)


def test_steps_that_begin_far_from_full_noise_are_refused_and_near_ones_named(sd):
    check, ddim = pack("tav_core.steps").check_steps, pack("nodes.host.ddim")
    refused = {}
    for steps in range(1, 1000):
        first = ddim.visited_timesteps(core_scheduler(sd.model), steps)[0]
        try:
            check(steps)
            assert first > 900 or steps < 10
        except ValueError as error:
            refused[steps] = [int(number) for number in re.findall(r"\d+", str(error))]
            assert first <= 900
    assert min(refused) > 100
    assert refused[400] == [400, 799, 1000, 333, 500]
    assert not any(set(numbers[-2:]) & refused.keys() for numbers in refused.values())


def test_a_model_that_another_node_samples_otherwise_is_refused_by_its_name(sd):
    schedule, nodes = pack("nodes.host.schedule"), core("comfy_extras.nodes_model_advanced")
    (few,) = nodes.ModelSamplingDiscrete().patch(sd.model, "lcm", False)
    with pytest.raises(ValueError, match=r"1000 discrete noise levels.*ModelSamplingDiscreteDistilled.*remove"):
        schedule.schedule_of(few)
    (flow,) = nodes.ModelSamplingSD3().patch(sd.model, 3.0)
    with pytest.raises(ValueError, match=r"epsilon or v_prediction.*CONST.*remove"):
        schedule.prediction_type_of(flow)


def test_a_vae_that_gives_nan_is_refused_with_the_option_that_helps():
    vae = SimpleNamespace(decode=lambda latents: torch.full_like(latents, torch.nan))
    with pytest.raises(ValueError, match="--fp32-vae"):
        pack("nodes.ddim_invert")._compared(torch.zeros(1), torch.zeros(1), vae)


def test_the_compute_dtype_is_the_one_that_a_node_of_the_host_sets(sd):
    node, dtype_of = core("comfy_extras.nodes_model_advanced").ModelComputeDtype(), pack("nodes.host.sd_model")
    (halved,) = node.patch(sd.model, "bf16")
    assert dtype_of.compute_dtype(halved) is torch.bfloat16
    assert dtype_of.compute_dtype(sd.model) is torch.float32


def test_cancel_is_obeyed_within_one_step(sd, tuned, clip, monkeypatch):
    manage, preview = core("comfy.model_management"), core("latent_preview")
    steps = []

    def press_cancel(step, x0, x, total):
        steps.append(step)
        if step == 1:
            manage.interrupt_current_processing(True)

    monkeypatch.setattr(preview, "prepare_callback", lambda *_: press_cancel)
    with pytest.raises(manage.InterruptProcessingException):
        inverted(tuned[0], sd, clip, 10)
    assert steps == [0, 1]
    monkeypatch.undo()
    assert inverted(tuned[0], sd, clip, 2)["samples"].isfinite().all()


def stock(sd, model, latent, *, node="KSamplerAdvanced", add_noise="disable", start=0, steps=10):
    sampling = model, add_noise, 0, steps, 3.0, "euler", "ddim_uniform", sd.text("a man"), sd.text("")
    with torch.inference_mode():
        if node == "KSampler":
            model, _, seed, *others = sampling
            return core("nodes").KSampler().sample(model, seed, *others, latent, denoise=1.0)[0]["samples"]
        return core("nodes").KSamplerAdvanced().sample(*sampling, latent, start, 10000, "disable")[0]["samples"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"node": "KSampler"}, "adds noise to the inverted noise"),
        ({"add_noise": "enable"}, "KSampler \\(Advanced\\) with add_noise set to disable"),
        ({"start": 6}, "let it start at step 0"),
    ],
)
def test_samplers_that_would_give_garbage_are_stopped_with_the_setting_to_change(sd, tuned, clip, options, message):
    latent = inverted(tuned[0], sd, clip, 10)
    with pytest.raises(ValueError, match=message):
        stock(sd, tuned[0], latent, **options)


def test_samplers_on_other_latents_are_not_stopped(sd, tuned, clip):
    """Image to image, and the second of two samplers that share the steps."""
    empty = {"samples": torch.zeros(3, 4, 8, 8)}
    assert stock(sd, tuned[0], {"samples": clip}, add_noise="enable", start=7).isfinite().all()
    with torch.inference_mode():
        sampling = tuned[0], "enable", 0, 10, 3.0, "euler", "ddim_uniform", sd.text("a man"), sd.text("")
        (half,) = core("nodes").KSamplerAdvanced().sample(*sampling, empty, 0, 3, "enable")
    assert stock(sd, tuned[0], half, start=3).isfinite().all()


@pytest.mark.parametrize("start", ["noise", "clip", "empty"])
def test_the_noise_output_starts_the_custom_sampler_at_the_clips_noise_whatever_latent_it_gets(sd, tuned, clip, start):
    model, node = tuned[0], pack("nodes.ddim_invert").DDIMInvert
    latent, sigmas, noise = executed(node, model, sd.text(""), {"samples": clip}, 10, False).args
    given = {"noise": latent, "clip": {"samples": clip}, "empty": {"samples": torch.zeros_like(clip)}}[start]
    samplers = core("comfy.samplers")
    guider = samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": sd.text("a man"), "negative": sd.text("")})
    guider.set_cfg(3.0)
    custom = core("comfy_extras.nodes_custom_sampler").SamplerCustomAdvanced
    with torch.inference_mode():
        output = (custom.execute if hasattr(custom, "execute") else custom().sample)(
            noise, guider, samplers.sampler_object("euler"), sigmas, given
        )
    assert relative(output[0]["samples"], stock(sd, model, latent)) < 1e-3
    with pytest.raises(ValueError, match="connect DDIM Invert's own latent"):
        noise.generate_noise({"samples": torch.zeros(2, 4, 8, 8)})


def custom(sd, model, noise, sampler, sigmas, latent):
    """The latents that SamplerCustomAdvanced gives, guided by 3."""
    guider = core("comfy.samplers").CFGGuider(model)
    guider.set_conds(sd.text("a man"), sd.text(""))
    guider.set_cfg(3.0)
    node = core("comfy_extras.nodes_custom_sampler").SamplerCustomAdvanced
    with torch.inference_mode():
        return (node.execute if hasattr(node, "execute") else node().sample)(noise, guider, sampler, sigmas, latent)[0]


def ddim_sampler(eta: float = 0.0):
    return executed(pack("nodes.ddim_sampler").DDIMSampler, eta).args[0]


def inversion(sd, model, clip, steps: int):
    """What DDIM Invert gives: latent, sigmas, noise."""
    return executed(pack("nodes.ddim_invert").DDIMInvert, model, sd.text(""), {"samples": clip}, steps, False).args


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("start", ["noise", "clip", "empty"])
def test_the_ddim_sampler_gives_tav_samples_video_to_its_last_step(sd, tuned, clip, start, eta):
    """At a number of steps, 7, for which no stock scheduler visits the same noise levels."""
    model = tuned[0]
    latent, sigmas, noise = inversion(sd, model, clip, 7)
    given = {"noise": latent, "clip": {"samples": clip}, "empty": {"samples": torch.zeros_like(clip)}}[start]
    expected = sampled(model, sd, latent, 7, positive=sd.text("a man"), eta=eta)
    output = custom(sd, model, noise, ddim_sampler(eta), sigmas, given)
    assert relative(output["samples"], expected) < 1e-3
    euler = custom(sd, model, noise, core("comfy.samplers").sampler_object("euler"), sigmas, given)
    assert relative(euler["samples"], expected) > 2e-3


def test_the_ddim_sampler_takes_the_sigmas_of_basic_scheduler(sd, tuned, clip):
    model = tuned[0]
    latent, _, noise = inversion(sd, model, clip, 10)
    sigmas = core("comfy.samplers").calculate_sigmas(model.get_model_object("model_sampling"), "ddim_uniform", 10)
    expected = sampled(model, sd, latent, 10, positive=sd.text("a man"))
    assert relative(custom(sd, model, noise, ddim_sampler(), sigmas, latent)["samples"], expected) < 1e-3


def test_the_ddim_sampler_refuses_what_it_cannot_follow(sd, tuned, clip):
    model = tuned[0]
    latent, sigmas, noise = inversion(sd, model, clip, 4)
    samplers = core("comfy.samplers")
    karras = samplers.calculate_sigmas(model.get_model_object("model_sampling"), "karras", 4)
    masked = {"samples": clip, "noise_mask": torch.ones(1, 64, 64)}
    again = core("comfy_extras.nodes_custom_sampler").Noise_RandomNoise(0)
    for others, message in (
        ((noise, karras, latent), "that DDIM does not visit in 4 steps"),
        ((noise, sigmas[1:], latent), "far noisier than the level"),
        ((noise, sigmas, masked), "keep outside of a mask"),
        ((again, sigmas, latent), "adds noise to the inverted noise"),
    ):
        noise_, sigmas_, latent_ = others
        with pytest.raises(ValueError, match=message):
            custom(sd, model, noise_, ddim_sampler(), sigmas_, latent_)


@pytest.mark.parametrize("first", [True, False])
def test_self_attention_guidance_is_refused_wherever_it_stands(sd, clip, first):
    """Its replacement of the middle block's attention hides ours; at scale 0 it should change nothing."""
    guidance = core("comfy_extras.nodes_sag").SelfAttentionGuidance
    inflate = pack("nodes.host.inflate").inflate

    def guided(model):
        return (
            guidance.execute(model, 0.0, 2.0) if hasattr(guidance, "execute") else guidance().patch(model, 0.0, 2.0)
        )[0]

    model = inflate(guided(sd.model)) if first else guided(inflate(sd.model))
    with pytest.raises(ValueError, match="Another node replaces the self-attention of the middle block"):
        sampled(model, sd, {"samples": torch.zeros_like(clip)}, 2)


def test_another_replacement_of_self_attention_computes_it_in_an_inflated_model(sd, clip):
    """One that stands at the whole block is called with the frames that ours chose, also after another inflation."""
    inflate, own = pack("nodes.host.inflate").inflate, pack("nodes.host.inflate").host_attention
    empty, seen, replaced = {"samples": torch.zeros_like(clip)}, [], sd.model.clone()

    def attend(query, key, value, options):
        seen.append(key.shape[1] / query.shape[1])
        return 0.5 * own(query, key, value, options)

    replaced.set_model_attn1_replace(attend, "middle", 0)
    once = sampled(inflate(replaced), sd, empty, 2)
    assert set(seen) == {0.5, 2.0}  # two frames attend to the first, then one to the first and the previous one
    assert torch.equal(sampled(inflate(inflate(replaced, attention="full")), sd, empty, 2), once)
    assert relative(once, sampled(inflate(sd.model), sd, empty, 2)) > 1e-3


@pytest.mark.parametrize("name", ["EasyCacheNode", "LazyCacheNode"])
def test_caches_for_sampling_leave_an_inversion_as_it_is(sd, tuned, clip, name):
    node = getattr(core("comfy_extras.nodes_easycache"), name)
    cached = node.execute(tuned[0], 0.2, 0.15, 0.95, False)[0]
    expected = inverted(tuned[0], sd, clip, 4)["samples"]
    assert torch.equal(inverted(cached, sd, clip, 4)["samples"], expected)
