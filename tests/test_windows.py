"""Windows of frames: what each holds, how they are fused, and that each sees what belongs to its own frames."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import DDPMScheduler, T2IAdapter

from tav_core import NoisePredictor, TavError, TuneConfig, guided, inflate, invert, sample, tune
from tav_core.control import Control, residuals
from tav_core.layout import align
from tav_core.lend import lent
from tav_core.masks import word_mask
from tav_core.source import Dials, Lender
from tav_core.windows import Windows, per_window, windowed
from tests.networks import SCHEDULE, text, tiny_unet, video
from tests.test_source import ddim, path_of, plain_tokens, predictor

LONG = 10  # frames
FAST = TuneConfig(num_steps=4, learning_rate=1e-2)


def test_every_window_begins_with_the_first_frame_and_all_are_full():
    windows = Windows(5, 2).over(LONG)
    assert windows == [[0, 1, 2, 3, 4], [0, 3, 4, 5, 6], [0, 5, 6, 7, 8], [0, 6, 7, 8, 9]]
    assert Windows(5).over(LONG) == [[0, 1, 2, 3, 4], [0, 5, 6, 7, 8], [0, 6, 7, 8, 9]]
    assert Windows(LONG, 3).over(LONG) == Windows().over(LONG) == [list(range(LONG))]


@pytest.mark.parametrize("frames", range(3, 30))
def test_windows_cover_every_frame(frames):
    for length in range(2, frames):
        for overlap in range(length - 1):
            windows = Windows(length, overlap)
            counts = torch.zeros(frames)
            for window in windows.over(frames):
                assert len(window) == length
                counts[window] += torch.tensor(windows.weights(window))
            assert counts.min() > 0
            assert counts[0] == 1


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_whole_clip_is_one_window_in_which_every_frame_counts(frames):
    (window,) = Windows().over(frames)
    assert window == list(range(frames))
    assert min(Windows().weights(window)) > 0
    values = torch.rand(frames, 3)
    assert torch.equal(per_window(Windows(), frames, lambda numbers: values[numbers]), values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1,), "window must be at least 2"),
        ((-4,), "window must"),
        ((4, 3), "overlap must be from 0 to 2"),
        ((4, -1), "overlap"),
        ((2.5,), "window must be a whole number"),
        ((True,), "window must be a whole number"),
    ],
)
def test_windows_that_cannot_be_are_refused(values, message):
    with pytest.raises(TavError, match=message):
        Windows(*values)


def test_a_window_longer_than_the_clip_is_refused_with_advice():
    with pytest.raises(TavError, match=r"16 frames, but the clip has only 8; give at most 8, or do without windows"):
        Windows(16).check(8)
    Windows(8).check(8)


def test_a_fused_prediction_is_the_weighted_mean_of_its_windows():
    class Counting:
        """Predicts how often it was called."""

        def __init__(self):
            self.calls = 0

        def on_frames(self, frames):
            def predict(latents, timestep):
                self.calls += 1
                return torch.full_like(latents, self.calls)

            return predict

    fused = windowed(Counting(), Windows(5, 2))(video(frames=7)[:, :1, :, :1, :1], 500).flatten().tolist()
    assert fused == pytest.approx([1, 1, 1, 4 / 3, 5 / 3, 2, 2])  # windows 0 1 2 3 4 and 0 3 4 5 6


def test_a_clip_no_longer_than_the_window_is_predicted_bit_for_bit_as_without():
    predict = guided(*(predictor(inflate(tiny_unet()), seed) for seed in (2, 3)), 3.0)
    assert torch.equal(windowed(predict, Windows(4, 2))(video(), 500), predict(video(), 500))


def test_the_first_frame_anchors_every_window():
    """Sparse-causal attention to frame 0 reaches beyond the first window; the rest of that window does not."""
    predict = windowed(predictor(inflate(tiny_unet(), temporal=False, group_norm="frame")), Windows(4, 1))
    changed = []
    for frame in (0, 2):
        latents = video(frames=LONG)
        before = predict(latents, 500)
        latents[:, :, frame] += 1
        changed.append((predict(latents, 500) - before).abs().amax(dim=(0, 1, 3, 4)) > 1e-5)
    assert changed[0].all()
    assert changed[1].tolist() == [False, False, True, True, *[False] * 6]


def test_each_window_sees_its_own_prompts_and_control_images():
    """A window's predictions are those for a clip that is cut out with its prompts and images."""
    unet = inflate(tiny_unet())
    adapter = T2IAdapter(channels=[16, 32], num_res_blocks=1).eval()
    images = torch.rand(LONG, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    prompts = text(1, LONG, 7, 32)
    control = Control(adapter, images)
    whole = [NoisePredictor(unet, given, ddim(), (control,)) for given in (prompts, prompts + 1)]
    latents, windows = video(frames=LONG), Windows(4, 1)
    with torch.no_grad():
        fused = windowed(guided(*whole, 3.0), windows)(latents, 500)
        frames = [0, 3, 4, 5]
        assert frames in windows.over(LONG)
        cut = [
            NoisePredictor(unet, given[:, frames], ddim(), (Control(adapter, images[frames]),))
            for given in (prompts, prompts + 1)
        ]
        expected = guided(*cut, 3.0)(latents[:, :, frames], 500)
    torch.testing.assert_close(fused[:, :, 4], expected[:, :, 2], atol=1e-5, rtol=1e-5)  # of this window alone


@pytest.mark.parametrize("dials", [Dials(structure=1.0), Dials(layout=1.0)], ids=["structure", "layout"])
@torch.no_grad()
def test_each_window_borrows_from_its_own_frames_of_the_source(dials):
    unet = inflate(tiny_unet())
    path = path_of_long(unet)
    layout = align(plain_tokens(1, 2, 3), plain_tokens(1, 5, 3))
    latents, windows, timestep = video(frames=LONG, seed=7), Windows(4, 1), 501
    frames = [0, 3, 4, 5]
    with lent(unet) as loan:
        cond, uncond = predictor(unet, 4), predictor(unet, 5)
        lender = Lender(loan, predictor(unet), path, dials)
        predict = guided(lender.borrowing(cond, layout), lender.borrowing(uncond), 3.0)
        fused = windowed(predict, windows)(latents, timestep)
        cut = replace(path, trajectory=path.trajectory[:, :, :, frames])
        lender = Lender(loan, predictor(unet), cut, dials)
        predict = guided(lender.borrowing(cond, layout), lender.borrowing(uncond), 3.0)
        expected = predict(latents[:, :, frames], timestep)
        plain = guided(cond, uncond, 3.0)(latents[:, :, frames], timestep)
    torch.testing.assert_close(fused[:, :, 4], expected[:, :, 2], atol=1e-5, rtol=1e-5)
    assert (expected - plain).abs().max() > 1e-3


def path_of_long(unet):
    return replace(path_of(unet), trajectory=invert(predictor(unet), video(frames=LONG), ddim(), 10))


def test_a_word_is_looked_for_window_by_window():
    unet = inflate(tiny_unet())
    path, given = path_of_long(unet), (predictor(unet), [2])
    whole = word_mask(given[0], path, given[1])
    divided = word_mask(given[0], path, given[1], windows=Windows(4, 2))
    assert torch.equal(word_mask(given[0], path, given[1], windows=Windows(LONG)), whole)
    assert divided.shape == whole.shape
    one = replace(path, trajectory=path.trajectory[:, :, :, :1])
    assert word_mask(given[0], one, given[1]).shape == (1, *whole.shape[1:])
    assert (divided == whole).float().mean() > 0.8  # other frames are attended to, so not all of it is the same


def test_windows_invert_and_sample_a_long_clip_as_well_as_one_call_does():
    unet, latents, errors = inflate(tiny_unet()), video(frames=LONG), []
    for predict in (predictor(unet), windowed(predictor(unet), Windows(4, 2))):
        noise = invert(predict, latents, ddim(), 10)[-1]
        errors.append((sample(predict, noise, ddim(), 10) - latents).abs().mean().item())
    assert errors[1] < 1.2 * errors[0]


# --- tuning ---


def tuned(frames=LONG, **changes):
    unet = inflate(tiny_unet())
    shapes = []
    unet.register_forward_hook(lambda _, args, output: shapes.append(tuple(args[0].shape)))
    config = replace(FAST, **changes)
    report = tune(unet, video(frames=frames), text(), DDPMScheduler(**SCHEDULE), config)
    return report.losses, unet.state_dict(), shapes


def test_a_step_sees_as_many_frames_as_the_window():
    losses, _, shapes = tuned(window=4)
    assert shapes == [(1, 4, 4, 8, 8)] * 4
    assert losses != tuned(window=5)[0]


def test_a_clip_no_longer_than_the_window_tunes_bit_for_bit_as_without():
    (losses, weights, _), (others, expected, _) = tuned(4, window=4), tuned(4)
    assert losses == others
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_drawn_windows_begin_with_the_first_frame_and_reach_every_other():
    generator, windows = torch.Generator().manual_seed(0), Windows(4)
    drawn = [windows.drawn(LONG, generator) for _ in range(200)]
    assert all(window[0] == 0 and window[1:] == list(range(window[1], window[1] + 3)) for window in drawn)
    assert {window[1] for window in drawn} == set(range(1, 8))


def test_a_step_is_controlled_by_the_images_of_its_own_frames():
    seen = []

    def control(noisy, timesteps, frames):
        seen.append((tuple(noisy.shape), len(frames), frames[0]))
        adapter = T2IAdapter(channels=[16, 32], num_res_blocks=1)
        images = torch.arange(LONG).float()[:, None, None, None].expand(-1, 3, 64, 64) / LONG
        given = residuals([Control(adapter, images)], noisy, timesteps, text(), frames)
        assert len(given["down_intrablock_additional_residuals"][0]) == 4
        return given

    tune(
        inflate(tiny_unet()),
        video(frames=LONG),
        text(),
        DDPMScheduler(**SCHEDULE),
        replace(FAST, window=4),
        control=control,
    )
    assert seen == [((1, 4, 4, 8, 8), 4, 0)] * 4


def test_tuning_keeps_no_images_of_windows_that_are_past():
    control = Control(T2IAdapter(channels=[16, 32], num_res_blocks=1), torch.zeros(LONG, 3, 64, 64))
    config = replace(FAST, window=4)
    under = partial(residuals, [control], prompt_embeds=text())
    tune(inflate(tiny_unet()), video(frames=LONG), text(), DDPMScheduler(**SCHEDULE), config, control=under)
    assert control._parts == {}


def test_draws_of_ones_own_and_windows_exclude_each_other():
    draw = lambda step: (video(), video(), torch.tensor([3]))  # noqa: E731
    with pytest.raises(TavError, match="tune without a window"):
        partial(tune, draw=draw)(inflate(tiny_unet()), video(), text(), DDPMScheduler(**SCHEDULE), TuneConfig(window=3))
