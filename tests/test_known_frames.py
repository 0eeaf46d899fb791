"""Known frames: what a network is shown, learns and puts back; frames in between, before and after."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from tav_core import NoisePredictor, TavError, TuneConfig, TunedWeights, guided, inflate, tune
from tav_core.fill import Filling, averaged, between, close_loop, extend, fill, interpolate
from tav_core.inflation import Inflation
from tav_core.known_frames import Known, draw_known
from tav_core.windows import Windows
from tests.golden import worst
from tests.networks import SCHEDULE, text, tiny_unet, video

KNOWN = Inflation(known_frames=True)
FAST = TuneConfig(num_steps=8, learning_rate=1e-2, gradient_checkpointing=False)
QUICK = Filling(num_steps=4)
EVERY_SECOND = Known(video(5), torch.tensor([True, False, True, False, True]))


@pytest.fixture(scope="module")
def tuned():
    unet = inflate(tiny_unet(), KNOWN)
    tune(unet, video(5), text(), DDPMScheduler(**SCHEDULE), FAST)
    return unet


@pytest.fixture
def scheduler():
    return DDIMScheduler(**SCHEDULE, steps_offset=1, clip_sample=False, set_alpha_to_one=False)


@pytest.fixture
def predictor_of(tuned, scheduler):
    return lambda known: NoisePredictor(tuned, text(), scheduler, known=known)


def predicted(unet, latents=None, known=None):
    with torch.no_grad():
        return unet(video(5) if latents is None else latents, 500, text(), known=known)


# The network


def test_a_network_starts_as_the_one_it_was_whatever_it_is_shown():
    plain, ours = inflate(tiny_unet()), inflate(tiny_unet(), KNOWN)
    assert torch.equal(predicted(ours), predicted(plain))
    assert torch.equal(predicted(ours, known=EVERY_SECOND), predicted(plain))


def test_a_tuned_network_sees_the_known_frames_and_nothing_of_the_others(tuned):
    shown = predicted(tuned, known=EVERY_SECOND)
    assert worst(shown, predicted(tuned)) > 0.01
    latents = EVERY_SECOND.latents.clone()
    latents[:, :, 1] = 5.0
    assert torch.equal(predicted(tuned, known=replace(EVERY_SECOND, latents=latents)), shown)
    latents[:, :, 0] = 5.0
    assert worst(predicted(tuned, known=replace(EVERY_SECOND, latents=latents)), shown) > 0.01


def test_frames_of_which_none_is_known_are_predicted_as_without(tuned):
    nothing = Known(video(5), torch.zeros(5, dtype=torch.bool))
    assert torch.equal(predicted(tuned, known=nothing), predicted(tuned))


def test_one_video_s_known_frames_serve_all_samples(tuned):
    latents = video(5, batch=2)
    both = predicted(tuned, latents, EVERY_SECOND)
    each = [predicted(tuned, latents[i : i + 1], EVERY_SECOND) for i in range(2)]
    assert worst(both, torch.cat(each)) < 1e-5


def test_guidance_shows_both_prompts_the_known_frames(tuned, scheduler):
    cond, uncond = (NoisePredictor(tuned, text(seed=seed), scheduler, known=EVERY_SECOND) for seed in (2, 3))
    u, c = uncond(video(5), 500), cond(video(5), 500)
    assert worst(guided(cond, uncond, 3.0)(video(5), 500), u + 3 * (c - u)) < 1e-4


def test_the_weights_are_one_file_with_a_strength(tuned, tmp_path):
    TunedWeights.from_unet(tuned).save(tmp_path / "tuned.safetensors")
    weights, fresh = TunedWeights.load(tmp_path / "tuned.safetensors"), inflate(tiny_unet(), KNOWN)
    assert weights.facts.inflation == KNOWN
    base = predicted(fresh, known=EVERY_SECOND)
    weights.apply(fresh)
    assert worst(predicted(fresh, known=EVERY_SECOND), predicted(tuned, known=EVERY_SECOND)) < 1e-5
    weights.apply(fresh, 0.0)
    assert torch.equal(predicted(fresh, known=EVERY_SECOND), base)


def test_a_network_without_known_frames_says_how_to_get_them():
    with pytest.raises(TavError, match="cannot be shown known frames; inflate and tune it with known_frames=True"):
        predicted(inflate(tiny_unet()), known=EVERY_SECOND)


def test_known_frames_must_fit_the_video(tuned):
    with pytest.raises(TavError, match=r"known frames \(1, 4, 5, 8, 8\) do not fit latents \(1, 4, 4, 8, 8\)"):
        predicted(tuned, video(4), EVERY_SECOND)
    with pytest.raises(TavError, match=r"latents .* and a mask"):
        Known(video(5), torch.ones(4, dtype=torch.bool))


def test_deflating_leaves_nothing():
    unet = inflate(tiny_unet(), KNOWN)
    assert unet.deflate().state_dict().keys() == tiny_unet().state_dict().keys()


# Tuning


def test_every_task_is_drawn_and_never_are_all_frames_known():
    generator = torch.Generator().manual_seed(0)
    drawn = {tuple(draw_known(6, generator).tolist()) for _ in range(500)}
    assert all(False in mask for mask in drawn)
    as_bits = {"".join("01"[known] for known in mask) for mask in drawn}
    assert {"000000", "101010", "100010", "110000", "000011", "100001"} <= as_bits
    assert {tuple(draw_known(1, generator).tolist()) for _ in range(50)} == {(False,)}
    for _ in range(100):
        assert not draw_known(2, generator).all()


def test_an_interrupted_run_draws_what_an_uninterrupted_one_does(tuned, tmp_path):
    def stop(step, *_, **__):
        if step == 3:
            raise KeyboardInterrupt

    given = video(5), text(), DDPMScheduler(**SCHEDULE), FAST
    with pytest.raises(KeyboardInterrupt):
        tune(inflate(tiny_unet(), KNOWN), *given, checkpoint=tmp_path / "run", on_step=stop)
    resumed = inflate(tiny_unet(), KNOWN)
    tune(resumed, *given, checkpoint=tmp_path / "run")
    assert torch.equal(predicted(resumed, known=EVERY_SECOND), predicted(tuned, known=EVERY_SECOND))


def test_steps_of_separate_images_and_windows_tune_too():
    unet = inflate(tiny_unet(), KNOWN)
    config = replace(FAST, num_steps=25, image_share=0.5, window=3)
    tune(unet, video(5), text(), DDPMScheduler(**SCHEDULE), config)
    assert worst(predicted(unet, known=EVERY_SECOND), predicted(unet)) > 1e-3


# Filling in


def test_known_frames_stay_exactly_as_they_are(predictor_of, scheduler):
    made = fill(predictor_of, EVERY_SECOND, scheduler, QUICK)
    assert torch.equal(made[:, :, ::2], EVERY_SECOND.latents[:, :, ::2])
    assert made.isfinite().all()
    assert worst(made[:, :, 1::2], EVERY_SECOND.latents[:, :, 1::2]) > 0.01
    assert torch.equal(made, fill(predictor_of, EVERY_SECOND, scheduler, QUICK))
    assert worst(made, fill(predictor_of, EVERY_SECOND, scheduler, replace(QUICK, seed=1))) > 0.01


def test_a_guess_stands_in_for_the_first_steps(predictor_of, scheduler):
    seen = []
    options = {"guess": averaged(EVERY_SECOND), "on_step": lambda *step, **_: seen.append(step)}
    fill(predictor_of, EVERY_SECOND, scheduler, QUICK, trust=0.5, **options)
    assert seen == [(1, 2), (2, 2)]
    with pytest.raises(TavError, match="trust"):
        fill(predictor_of, EVERY_SECOND, scheduler, QUICK, trust=1.0, **options)


def test_frames_come_in_between(predictor_of, scheduler):
    clip = video(3)
    for factor in (2, 4):
        made = interpolate(predictor_of, clip, factor, scheduler, QUICK)
        assert made.shape[2] == 2 * factor + 1
        assert torch.equal(made[:, :, ::factor], clip)


def test_an_average_weighs_by_distance():
    clip = torch.tensor([0.0, 4.0, 8.0])[None, None, :, None, None].expand(1, 4, 3, 2, 2)
    assert averaged(between(clip, 4))[0, 0, :, 0, 0].tolist() == list(range(9))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_video_is_continued(predictor_of, scheduler, count, backwards):
    clip, steps = video(5), []
    made = extend(
        predictor_of, clip, count, scheduler, QUICK, backwards=backwards, on_step=lambda *step, **_: steps.append(step)
    )
    assert made.shape[2] == 5 + count
    own, new = (made[:, :, count:], made[:, :, :count]) if backwards else (made[:, :, :5], made[:, :, 5:])
    assert torch.equal(own, clip)
    assert new.isfinite().all()
    assert [step for step, _ in steps] == list(range(1, steps[-1][1] + 1))


@pytest.mark.parametrize("direction", ["onwards", "backwards", "loop"])
def test_new_frames_start_from_a_guess_of_them(predictor_of, scheduler, direction):
    """With one step left, they are near it, and the clip's own frames are as ever."""
    clip, guess, filling, steps = video(5), video(3, seed=9), Filling(num_steps=50), []
    options = {"guess": guess, "trust": 0.98, "on_step": lambda *step, **_: steps.append(step)}
    if direction == "loop":
        made = close_loop(predictor_of, clip, 3, scheduler, filling, **options)
    else:
        made = extend(predictor_of, clip, 3, scheduler, filling, backwards=direction == "backwards", **options)
    assert steps == [(1, 1)]
    own, new = (made[:, :, 3:], made[:, :, :3]) if direction == "backwards" else (made[:, :, :5], made[:, :, 5:])
    assert torch.equal(own, clip)
    assert worst(new, guess) < 0.3 < worst(new.flip(2), guess)


def test_each_window_s_guess_is_that_of_its_new_frames(predictor_of, scheduler):
    """Of three windows, the last is cut; backwards they are made from the last to the first."""
    clip, guess = video(4), video(5, seed=9)
    steps = []
    options = {"guess": guess, "trust": 0.98, "on_step": lambda *step, **_: steps.append(step)}
    for backwards in (False, True):
        made = extend(predictor_of, clip, 5, scheduler, Filling(num_steps=50), backwards=backwards, **options)
        new = made[:, :, :5] if backwards else made[:, :, 4:]
        assert all(worst(new[:, :, at], guess[:, :, at]) < 0.3 for at in range(5))
    assert steps == 2 * [(1, 3), (2, 3), (3, 3)]


def test_a_guess_of_other_frames_is_told(predictor_of, scheduler):
    for made, count in ((extend, 2), (close_loop, 2)):
        with pytest.raises(
            TavError, match=r"A guess of 2 new frames has shape \(1, 4, 2, 8, 8\), got \(1, 4, 3, 8, 8\)"
        ):
            made(predictor_of, video(5), count, scheduler, QUICK, guess=video(3), trust=0.5)
    with pytest.raises(TavError, match="trust"):
        extend(predictor_of, video(5), 2, scheduler, QUICK, guess=video(2), trust=1.0)


def test_continuing_shows_the_frames_next_to_the_new_ones(tuned, scheduler):
    shown = []

    def predictor_of(known):
        shown.append(known)
        return NoisePredictor(tuned, text(), scheduler, known=known)

    clip = video(5)
    extend(predictor_of, clip, 3, scheduler, QUICK)
    extend(predictor_of, clip, 3, scheduler, QUICK, backwards=True)
    after, before = shown
    assert after.mask.tolist() == [True, True, False, False, False]
    assert torch.equal(after.latents[:, :, :2], clip[:, :, -2:])
    assert before.mask.tolist() == [False, False, False, True, True]
    assert torch.equal(before.latents[:, :, 3:], clip[:, :, :2])


def test_correction_changes_new_frames_alone(predictor_of, scheduler):
    clip = video(5)
    plain, corrected = (extend(predictor_of, clip, 3, scheduler, QUICK, correction=share) for share in (0.0, 0.5))
    assert torch.equal(corrected[:, :, :5], clip)
    assert worst(corrected, plain) > 1e-3


@pytest.mark.parametrize("correction", [1e-17, 0.3, 0.99])
def test_corrected_steps_are_counted_to_the_last(predictor_of, scheduler, correction):
    steps = []
    extend(
        predictor_of, video(5), 4, scheduler, QUICK, correction=correction, on_step=lambda *at, **_: steps.append(at)
    )
    assert [step for step, _ in steps] == list(range(1, len(steps) + 1))
    assert {total for _, total in steps} == {len(steps)}


def test_a_share_of_the_steps_is_rounded_and_leaves_one():
    assert [Filling(100).skipped(share) for share in (0.0, 0.29, 0.57, 0.999)] == [0, 29, 57, 99]
    assert Filling(1).skipped(0.8) == 0


def test_in_windows_both_prompts_of_a_guided_prediction_run_in_one_batch(tuned, scheduler, monkeypatch):
    batches, forward = [], type(tuned).forward

    def spy(self, latents, *given, **residuals):
        batches.append(len(latents))
        return forward(self, latents, *given, **residuals)

    monkeypatch.setattr(type(tuned), "forward", spy)

    def predictor_of(known):
        return guided(*(NoisePredictor(tuned, text(seed=seed), scheduler, known=known) for seed in (2, 3)), 3.0)

    known = between(video(5), 2)
    fill(predictor_of, known, scheduler, Filling(num_steps=1, windows=Windows(5, 2)))
    assert set(batches) == {2}


def test_a_loop_leads_back_to_the_first_frame(tuned, scheduler):
    shown = []

    def predictor_of(known):
        shown.append(known)
        return NoisePredictor(tuned, text(), scheduler, known=known)

    clip = video(5)
    made = close_loop(predictor_of, clip, 3, scheduler, QUICK)
    assert made.shape[2] == 8
    assert torch.equal(made[:, :, :5], clip)
    assert shown[0].mask.tolist() == [True, False, False, False, True]
    assert torch.equal(shown[0].latents[:, :, [0, 4]], clip[:, :, [4, 0]])


def test_each_window_is_shown_its_own_known_frames(tuned, scheduler, monkeypatch):
    seen, forward = [], type(tuned).forward

    def spy(self, latents, timestep, prompt, *, known=None, **residuals):
        seen.append(known)
        return forward(self, latents, timestep, prompt, known=known, **residuals)

    monkeypatch.setattr(type(tuned), "forward", spy)
    windows = Windows(5, 2)
    known = between(video(5), 2)
    one_step = Filling(num_steps=1, windows=windows)
    fill(lambda known: NoisePredictor(tuned, text(), scheduler, known=known), known, scheduler, one_step)
    frames = windows.over(9)
    assert len(seen) == len(frames) > 1
    for each, own in zip(seen, frames, strict=True):
        assert torch.equal(each.mask, known.mask[own])
        assert torch.equal(each.latents, known.latents[:, :, own])


def test_impossible_counts_are_told(predictor_of, scheduler):
    with pytest.raises(TavError, match="nothing between the frames of a video of one frame"):
        between(video(1), 2)
    with pytest.raises(TavError, match="factor"):
        between(video(2), 1)
    with pytest.raises(TavError, match="at least 1 frame to add"):
        extend(predictor_of, video(3), 0, scheduler)
    with pytest.raises(TavError, match="at least 2 frames to go on from, got 1"):
        extend(predictor_of, video(1), 3, scheduler)
    with pytest.raises(TavError, match="correction"):
        extend(predictor_of, video(3), 3, scheduler, correction=1.0)
    with pytest.raises(TavError, match="from 1 to 3, to close a loop"):
        close_loop(predictor_of, video(5), 4, scheduler)
