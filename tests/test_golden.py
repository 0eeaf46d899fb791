"""Our numbers against the original implementation's, in float32 (see golden/README.md for the tolerances' origin)."""

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDPMScheduler
from diffusers.models.attention_processor import Attention
from einops import rearrange

from tav_core import NoisePredictor, TuneConfig, as_noise, guided, inflate, invert, sample, tune
from tav_core.attention import FrameAttnProcessor, FrameCount
from tests import golden
from tests.golden import worst


@pytest.mark.parametrize("name", ["forward_A", "forward_B"])
@torch.no_grad()
def test_forward_is_the_originals(name):
    case = golden.load(name)
    unet = case.unet()
    for tag in case.settings["inputs"]:
        given = case.part(f"in.{tag}.")
        output = unet(given["sample"], given["timestep"], given["encoder_hidden_states"])
        assert worst(output, case[f"out.{tag}.sample"]) < 5e-5, tag


@pytest.mark.parametrize("name", ["forward_A", "forward_B"])
@torch.no_grad()
def test_every_module_on_the_way_gives_what_the_originals_does(name):
    case = golden.load(name)
    unet, tag = case.unet(), case.settings["probe_input"]
    given, outputs = case.part(f"in.{tag}."), {}
    for module in case.settings["probe_modules"]:
        unet.unet.get_submodule(module).register_forward_hook(
            lambda _module, _args, output, name=module: outputs.update({name: output})
        )
    unet(given["sample"], given["timestep"], given["encoder_hidden_states"])
    frames = given["sample"].shape[2]
    for module, expected in case.part(f"probe.{tag}.").items():
        output = outputs[module][0] if isinstance(outputs[module], tuple) else outputs[module]
        if expected.ndim == 5:
            output = rearrange(output, "(b f) c h w -> b c f h w", f=frames)
        if module.endswith("attn_temp"):
            output = rearrange(output, "(b f) n c -> (b n) f c", f=frames)
        if module.startswith("time"):  # once a frame here, once a sample there
            output = output[::frames]
        assert worst(output, expected) < 1e-4, module


@pytest.mark.parametrize("name", ["sc_attn_A", "sc_attn_B"])
@torch.no_grad()
def test_sparse_causal_attention_is_the_originals(name):
    case = golden.load(name)
    settings, count = case.settings, FrameCount()
    attn = Attention(
        settings["query_dim"],
        heads=settings["heads"],
        dim_head=settings["dim_head"],
        processor=FrameAttnProcessor("sparse-causal", count),
    )
    attn.load_state_dict(case.part("w."))
    for given in settings["inputs"]:
        count.num_frames = given["video_length"]
        output = attn(case[f"in.{given['tag']}.hidden_states"])
        assert worst(output, case[f"out.{given['tag']}.hidden_states"]) < 1e-5, given


@torch.no_grad()
def test_a_fresh_inflation_is_the_originals_with_its_output_bias_at_zero():
    case = golden.load("zero_init_A16")
    as_theirs, zeroed = case.unet(), inflate(case.unet2d())
    for tag in ("f1", "f3", "f3_same"):
        given = case.part(f"in.{tag}.")
        inputs = given["sample"], given["timestep"], given["encoder_hidden_states"]
        assert worst(as_theirs(*inputs), case[f"out.ref_init.{tag}.sample"]) < 5e-5
        assert worst(zeroed(*inputs), case[f"out.zero.{tag}.sample"]) < 5e-5
    alone = case.part("in.f1.")
    output = inflate(case.unet2d())(alone["sample"], alone["timestep"], alone["encoder_hidden_states"])
    assert worst(output[:, :, 0], case["out.unet2d.f1.sample"]) < 5e-5


@pytest.mark.parametrize("name", ["ddim_inversion_A16_10", "ddim_inversion_A16_50", "ddim_inversion_B_10"])
def test_inversion_is_the_originals(name):
    case = golden.load(name)
    unet, told = case.unet(), []

    def predict_noise(latents, timestep):
        told.append(timestep)
        return unet(latents, timestep, case["in.encoder_hidden_states"])

    trajectory = invert(predict_noise, case["in.latents"], golden.ddim(), case.settings["num_inv_steps"])
    assert told == case["out.fed_timesteps"].tolist()
    assert worst(trajectory, case["out.trajectory"]) < 1e-4


@pytest.mark.parametrize(("name", "tolerance"), [("sample_A16", 1e-3), ("sample_B_vpred_b2", 2e-3)])
def test_sampling_is_the_originals(name, tolerance):
    case = golden.load(name)
    unet, scheduler = case.unet(), golden.ddim(prediction_type=case.settings["prediction_type"])

    uncond = NoisePredictor(unet, case["in.uncond_embeddings"], scheduler)
    for run in case.settings["runs"]:
        tag, steps = run["tag"], []
        cond = NoisePredictor(unet, case[run["prompt_embeddings"]], scheduler)
        predict_noise = guided(cond, uncond, run["guidance_scale"])
        final = sample(
            predict_noise,
            case["in.start_latents"],
            scheduler,
            case.settings["num_inference_steps"],
            on_step=lambda step, total, latents, steps=steps, **_: steps.append(latents),
        )
        bound = tolerance if run["classifier_free_guidance"] else 2e-4
        assert worst(torch.stack(steps), case[f"out.{tag}.steps"]) < bound, tag
        assert worst(final, case[f"out.{tag}.final"]) < bound, tag


def test_the_noise_schedule_is_the_originals():
    case = golden.load("scheduler")
    scheduler, ddpm = golden.ddim(), DDPMScheduler(**golden.SCHEDULE)
    assert worst(scheduler.betas, case["betas"]) < 1e-6
    assert worst(scheduler.alphas_cumprod, case["alphas_cumprod"]) < 1e-6
    assert worst(scheduler.final_alpha_cumprod, case["final_alpha_cumprod"].squeeze()) < 1e-6
    given = case["in.x"], case["in.noise"], case["in.add_noise_timesteps"]
    assert worst(ddpm.add_noise(*given), case["out.add_noise"]) < 1e-6
    assert worst(ddpm.get_velocity(*given), case["out.velocity"]) < 1e-6


@pytest.mark.parametrize("num_steps", [8, 10, 12, 20, 25, 30, 50, 100])
def test_sampling_and_inversion_visit_the_originals_timesteps(num_steps):
    case, visited, inverted = golden.load("scheduler"), [], []
    zero = torch.zeros(1, 4, 1, 1, 1)
    sample(lambda x, t: visited.append(t) or x, zero, golden.ddim(), num_steps)
    invert(lambda x, t: inverted.append(t) or x, zero, golden.ddim(), num_steps)
    assert visited == inverted[::-1] == case[f"timesteps.{num_steps}"].tolist()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_one_step_of_ddim_is_the_originals(kind):
    """Through the conversion to noise, which `invert` and `sample` put before the step."""
    case = golden.load("scheduler")
    steps = case.settings["step_num_inference_steps"]
    scheduler, inverse = golden.ddim(), DDIMInverseScheduler.from_config(golden.ddim().config)
    scheduler.set_timesteps(steps)
    inverse.set_timesteps(steps)
    predict_noise = as_noise(lambda latents, timestep: case["in.model_output"], golden.ddim(prediction_type=kind))
    for timestep, expected in case.part(f"out.ddim_step.{kind}.").items():
        noise = predict_noise(case["in.x"], int(timestep))
        assert (
            worst(scheduler.step(noise, int(timestep), case["in.x"]).prev_sample, expected)
            < 1e-6 * expected.abs().max()
        )
    if kind == "epsilon":  # taken as noise whatever the network predicts, the other is a fault of the original
        for timestep, expected in case.part("out.next_step.epsilon.").items():
            step = inverse.step(case["in.model_output"], int(timestep), case["in.x"]).prev_sample
            assert worst(step, expected) < 1e-6 * expected.abs().max()


TRAININGS = ["lr3e-5", "lr1e-3", "clip", "vpred", "refinit"]


@pytest.mark.parametrize("name", [*(f"train_A16_{case}" for case in TRAININGS), "train_B_lr1e-3"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_tuning_is_the_originals_without_its_reentrant_checkpointing(name, checkpointing):
    case = golden.load(name)
    settings, unet, first = case.settings, case.unet(), {}
    config = TuneConfig(
        num_steps=settings["steps"],
        learning_rate=settings["learning_rate"],
        max_grad_norm=settings["max_grad_norm"],
        gradient_checkpointing=checkpointing,
    )

    def draw(step):
        return case["in.latents"][step], case["in.noise"][step], case["in.timesteps"][step]

    def keep_first(step, total, **facts):
        if step == 1:
            first.update({name: p.detach().clone() for name, p in unet.trainable_parameters().items()})

    scheduler = DDPMScheduler(**golden.SCHEDULE, prediction_type=settings["prediction_type"])
    report = tune(
        unet, case["in.latents"][0], case["in.encoder_hidden_states"], scheduler, config, draw=draw, on_step=keep_first
    )
    for got, expected in ((report.losses, case["out.loss"]), (report.grad_norms, case["out.grad_norm"])):
        torch.testing.assert_close(torch.tensor(got), expected, rtol=1e-5, atol=0)
    for weights, expected in ((first, case.part("out.step1.")), (unet.trainable_parameters(), case.part("out.final."))):
        assert weights.keys() == expected.keys()
        differences = torch.cat([(weights[name] - expected[name]).abs().flatten() for name in expected])
        assert differences.mean() < 2e-7
        assert differences.max() < 0.1 * config.learning_rate
