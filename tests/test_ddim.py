import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from tav_core import NoisePredictor, TavError, as_noise, guided, inflate, invert, sample
from tests.networks import SCHEDULE, text, tiny_unet, video


def ddim(**config) -> DDIMScheduler:
    return DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **config)


def psnr(got, expected) -> float:
    return 10 * math.log10((expected.max() - expected.min()) ** 2 / (got - expected).square().mean())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_sampling_leads_an_inverted_video_back(kind, record_property):
    """What is left is DDIM's own error, which shrinks as the steps do; random networks are rough, so they are many."""
    scheduler, found = ddim(prediction_type=kind), {}
    predict = NoisePredictor(inflate(tiny_unet()), text(), scheduler)
    for steps in (20, 100):
        noise = invert(predict, video(), scheduler, steps)[-1]
        found[steps] = psnr(sample(guided(predict, predict, 1.0), noise, scheduler, steps), video())
        record_property(f"psnr_db_at_{steps}_steps", found[steps])
    assert found[100] > max(20, found[20] + 6)


def test_inverting_and_sampling_print_nothing(caplog, capfd):
    predict = NoisePredictor(inflate(tiny_unet()), text(), ddim())
    sample(predict, invert(predict, video(), ddim(), 2)[-1], ddim(), 2)
    assert (caplog.text, *capfd.readouterr()) == ("", "", "")


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_step_back_undoes_a_step_forth_where_the_network_says_the_same(kind, spacing):
    """With a prediction that does not depend on its input, inversion and sampling are exact inverses."""
    scheduler, constant = ddim(timestep_spacing=spacing), video(seed=5)
    noise = invert(lambda latents, timestep: constant, video(), scheduler, 20)[-1]
    assert (noise - video()).abs().max() > 0.1
    torch.testing.assert_close(
        sample(lambda latents, timestep: constant, noise, scheduler, 20), video(), atol=1e-4, rtol=0
    )


def test_velocity_is_turned_into_the_noise_that_it_was_made_of():
    scheduler, clean, noise = ddim(prediction_type="v_prediction"), video(), video(seed=5)
    for timestep in (1, 500, 981):
        at = torch.tensor([timestep])
        velocity, noisy = scheduler.get_velocity(clean, noise, at), scheduler.add_noise(clean, noise, at)
        predict_noise = as_noise(lambda latents, timestep, velocity=velocity: velocity, scheduler)
        torch.testing.assert_close(predict_noise(noisy, timestep), noise)


def test_two_predictors_of_one_network_are_asked_at_once_and_say_the_same():
    unet, scheduler, calls = inflate(tiny_unet()), ddim(), []
    unet.register_forward_hook(lambda *_: calls.append(1))
    cond, uncond = (NoisePredictor(unet, text(seed=seed), scheduler) for seed in (3, 4))
    with torch.no_grad():
        joined = guided(cond, uncond, 7.5)(video(), 500)
        assert len(calls) == 1
        apart = guided(lambda *a: cond(*a), lambda *a: uncond(*a), 7.5)(video(), 500)
        assert len(calls) == 3
        torch.testing.assert_close(joined, apart, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(apart, uncond(video(), 500) + 7.5 * (cond(video(), 500) - uncond(video(), 500)))


def test_a_guidance_of_one_asks_the_condition_alone():
    assert guided("cond", "uncond", 1.0) == "cond"


def test_the_trajectory_starts_clean_and_every_step_is_reported():
    told = []
    trajectory = invert(
        lambda x, t: x,
        video(),
        ddim(),
        5,
        on_step=lambda step, total, **facts: told.append((step, total, facts["timestep"])),
    )
    assert trajectory.shape == (6, 1, 4, 4, 8, 8)
    assert torch.equal(trajectory[0], video())
    assert told == [(1, 5, 1), (2, 5, 201), (3, 5, 401), (4, 5, 601), (5, 5, 801)]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_each_step_also_gives_the_clean_video_that_its_prediction_means(kind):
    """x_0 = (z - sqrt(1 - a) noise) / sqrt(a), at the noise level that the step starts from."""
    scheduler, asked, steps = ddim(prediction_type=kind), [], []
    predict = NoisePredictor(inflate(tiny_unet()), text(), scheduler)

    def predict_noise(latents, timestep):
        asked.append((latents, predict(latents, timestep)))
        return asked[-1][1]

    def on_step(step, total, *, timestep, latents, denoised):
        steps.append((timestep, denoised))

    noise = invert(predict_noise, video(), scheduler, 5, on_step=on_step)[-1]
    sample(predict_noise, noise, scheduler, 5, on_step=on_step)
    assert [timestep for timestep, _ in steps] == [1, 201, 401, 601, 801, 801, 601, 401, 201, 1]
    levels = [-1, 1, 201, 401, 601, 801, 601, 401, 201, 1]  # an inversion's step starts a step behind its timestep
    for level, (latents, noise), (_, denoised) in zip(levels, asked, steps, strict=True):
        alpha = scheduler.alphas_cumprod[level] if level >= 0 else scheduler.final_alpha_cumprod
        torch.testing.assert_close(denoised, (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt())


def test_an_exception_from_the_callback_ends_the_loop_there():
    def cancel(step, total, **facts):
        if step == 2:
            raise KeyboardInterrupt

    for loop in (invert, sample):
        calls = []
        with pytest.raises(KeyboardInterrupt):
            loop(lambda x, t, calls=calls: calls.append(t) or x, video(), ddim(), 5, on_step=cancel)
        assert len(calls) == 2


def test_eta_draws_from_the_generator_it_is_given():
    def drawn(seed):
        return sample(lambda x, t: x, video(), ddim(), 5, eta=1.0, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize(
    ("scheduler", "steps", "message"),
    [
        (ddim(), 0, "from 1 to 999; got 0"),
        (ddim(), 1000, "from 1 to 999; got 1000"),
        (ddim(timestep_spacing="linspace"), 10, "'leading' or 'trailing', got 'linspace'"),
        (DDPMScheduler(**SCHEDULE), 10, "needs a diffusers DDIMScheduler, got a DDPMScheduler"),
        (ddim(timestep_spacing="trailing", rescale_betas_zero_snr=True), 10, "999 of this schedule is pure noise"),
    ],
)
def test_what_ddim_cannot_follow_is_refused_before_the_first_step(scheduler, steps, message):
    for loop in (invert, sample):
        with pytest.raises(TavError, match=message):
            loop(lambda x, t: pytest.fail("the network was asked"), video(), scheduler, steps)


def test_other_prediction_types_are_refused():
    with pytest.raises(TavError, match=r"epsilon or v_prediction.*'sample'"):
        as_noise(lambda x, t: x, ddim(prediction_type="sample"))


@pytest.mark.parametrize(("follow", "asked"), [(invert, [1, 101, 201, 301, 401, 501]), (sample, [901, 801, 701])])
def test_latents_that_become_nan_are_told_at_once(follow, asked):
    """Not when the steps are done, which may take minutes."""
    timesteps = []

    def broken(latents, timestep):
        timesteps.append(timestep)
        return latents * float("nan" if timestep == asked[-1] else 1)

    with pytest.raises(TavError, match=r"became NaN or infinite.*use bf16 or float32"):
        follow(broken, video(), ddim(), 10)
    assert timesteps == asked
