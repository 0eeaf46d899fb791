"""Measures of videos, held against videos of which the answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tav_core.errors import TavError
from tav_core.metrics import (
    ClipScorer,
    centre_error,
    peak_signal_to_noise,
    spread,
    structural_similarity,
    trajectory_correlation,
    warp_error,
)
from tests.networks import write_clip_model

PATH = [(0.2, 0.7), (0.4, 0.3), (0.6, 0.3), (0.8, 0.7)]


def texture(size: int = 96) -> torch.Tensor:
    """A smooth random image (size, size, 3) in 0..1."""
    coarse = torch.rand(1, 3, size // 6, size // 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)


def moving(dx: int, dy: int, frames: int = 4, size: int = 64) -> torch.Tensor:
    """A window that moves over the texture by whole pixels."""
    return torch.stack([texture()[i * dy : i * dy + size, i * dx : i * dx + size] for i in range(frames)])


def noise_like(frames: torch.Tensor, deviation: float, seed: int = 0) -> torch.Tensor:
    return deviation * torch.randn(frames.shape, generator=torch.Generator().manual_seed(seed))


# Nearness to the source


def test_a_video_is_its_own_best_reconstruction():
    video = moving(1, 2)
    assert peak_signal_to_noise(video, video) == 100
    assert structural_similarity(video, video) == pytest.approx(1)


def test_noise_of_a_known_deviation_gives_the_psnr_of_its_definition():
    video = moving(1, 2)
    assert peak_signal_to_noise(video + noise_like(video, 0.1), video) == pytest.approx(20, abs=0.2)


def test_psnr_counts_only_the_pixels_asked_for():
    video = moving(1, 2)
    where = torch.zeros(video.shape[:3], dtype=torch.bool)
    where[:, :32] = True
    spoilt = video.clone()
    spoilt[:, 32:] = 0
    assert peak_signal_to_noise(spoilt, video, where) == 100
    assert peak_signal_to_noise(spoilt, video, ~where) < 12


def test_ssim_falls_with_noise_and_follows_wang_et_al_on_flat_images():
    video = moving(1, 2)
    values = [structural_similarity((video + noise_like(video, d)).clamp(0, 1), video) for d in (0.02, 0.1, 0.3)]
    assert 1 > values[0] > values[1] > values[2] > 0
    dark, bright = torch.full((1, 32, 32, 3), 0.2), torch.full((1, 32, 32, 3), 0.6)
    # where nothing varies the luminance term alone is left: (2 m n + c) / (m^2 + n^2 + c), c = 0.01^2
    assert structural_similarity(dark, bright) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), rel=1e-4)


def test_frames_smaller_than_a_window_are_refused():
    with pytest.raises(TavError, match="at least 11x11 pixels, got 8x10"):
        structural_similarity(torch.zeros(1, 10, 8, 3), torch.zeros(1, 10, 8, 3))


# Steadiness


def test_a_still_video_has_no_warp_error():
    assert warp_error(moving(0, 0)) == 0


@pytest.mark.parametrize("step", [(2, 0), (0, 3), (3, 2)])
def test_what_moves_without_changing_has_almost_no_warp_error(step):
    video = moving(*step)
    unmoved = (video[1:] - video[:-1]).square().mean().item()
    assert warp_error(video) < 0.02 * unmoved


def test_flicker_shows_in_the_warp_error():
    video = moving(2, 1)
    flickering = (video * torch.tensor([1, 0.7, 1, 0.7]).view(4, 1, 1, 1)).clamp(0, 1)
    assert warp_error(flickering) > 20 * warp_error(video)


def test_unrelated_frames_have_the_largest_warp_error():
    frames = torch.stack([texture().roll((31 * i, 47 * i), (0, 1)).rot90(i) for i in range(4)])
    assert warp_error(frames) > 20 * warp_error(moving(2, 1))


# Motion


def test_a_shifted_and_a_shrunken_path_follow_the_same_motion():
    shifted = [(x + 0.1, y - 0.05) for x, y in PATH]
    shrunken = [(0.5 + 0.5 * (x - 0.5), 0.5 + 0.5 * (y - 0.5)) for x, y in PATH]
    for path in (PATH, shifted, shrunken):
        assert trajectory_correlation(path, PATH) == pytest.approx(1)
    assert centre_error(PATH, PATH) == 0
    assert centre_error(shifted, PATH) == pytest.approx(np.hypot(0.1, 0.05))


def test_a_mirrored_path_and_one_that_stands_still_do_not():
    assert trajectory_correlation([(1 - x, 1 - y) for x, y in PATH], PATH) == pytest.approx(-1)
    assert trajectory_correlation([(0.5, 0.5)] * 4, PATH) == 0


def test_frames_in_which_nothing_is_seen_cost_something():
    holed = [PATH[0], None, PATH[2], PATH[3]]
    assert 0.3 < trajectory_correlation(holed, PATH) < 0.99
    assert centre_error(holed, PATH) > 0.02
    assert trajectory_correlation([None] * 4, PATH) == 0
    assert centre_error([None] * 4, PATH) == centre_error([(0.5, 0.5)] * 4, PATH)


def test_random_paths_do_not_correlate():
    rng = np.random.default_rng(0)
    values = [trajectory_correlation(rng.random((8, 2)).tolist(), rng.random((8, 2)).tolist()) for _ in range(200)]
    assert abs(np.mean(values)) < 0.1


def test_spread_is_relative_to_the_mean():
    assert spread([2.0, 2.0, 2.0]) == 0
    assert spread([1.0, 3.0]) == pytest.approx(spread([10.0, 30.0])) == pytest.approx(0.5)
    assert spread([0.0, 0.0]) == 1


# CLIP


@pytest.fixture(scope="module")
def scorer(tmp_path_factory) -> ClipScorer:
    return ClipScorer(write_clip_model(tmp_path_factory.mktemp("clip")))


def test_equal_frames_are_perfectly_consistent(scorer):
    scores = scorer.score(moving(0, 0), "a red ball")
    assert scores.frame_consistency == pytest.approx(100, abs=1e-3)
    assert -100 < scores.textual_faithfulness < 100


def test_clip_scores_are_the_mean_cosines_of_the_models_own_embeddings(scorer):
    frames = torch.stack([moving(0, 0)[0], 1 - moving(0, 0)[0], torch.zeros(64, 64, 3)])
    scores = scorer.score(frames, "a red ball")
    pixels = scorer.processor(images=list((255 * frames).round().byte().numpy()), return_tensors="pt").pixel_values
    tokens = scorer.processor(text=["a red ball"], return_tensors="pt")
    with torch.no_grad():
        images = scorer.model.visual_projection(scorer.model.vision_model(pixels).pooler_output)
        words = scorer.model.text_projection(scorer.model.text_model(tokens.input_ids).pooler_output)
    between = torch.nn.functional.cosine_similarity
    pairs = [between(images[i], images[j], dim=0) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert scores.frame_consistency == pytest.approx(100 * torch.stack(pairs).mean().item(), abs=1e-3)
    assert scores.textual_faithfulness == pytest.approx(100 * between(images, words).mean().item(), abs=1e-3)


def test_a_prompt_longer_than_clip_reads_is_cut(scorer):
    words = "a red ball " * 60
    assert scorer.score(moving(0, 0), words) == pytest.approx(scorer.score(moving(0, 0), words + "star"))


def test_what_is_no_clip_model_is_refused(tmp_path):
    with pytest.raises(TavError, match=r"cannot be opened .* give a folder with a CLIPModel"):
        ClipScorer(str(tmp_path))


@pytest.mark.parametrize("half", ["text_model", "truncated"])
def test_half_a_clip_model_is_refused(tmp_path, half):
    file = Path(write_clip_model(tmp_path)) / "model.safetensors"
    if half == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        tensors = load_file(file)
        save_file({name: tensor for name, tensor in tensors.items() if name.startswith(half)}, file, {"format": "pt"})
    with pytest.raises(TavError, match=r"cannot be opened .* give a folder with a CLIPModel"):
        ClipScorer(str(tmp_path))


def test_one_frame_is_not_enough_to_compare(scorer):
    with pytest.raises(TavError, match="at least two"):
        scorer.score(moving(0, 0)[:1], "a red ball")
    with pytest.raises(TavError, match="at least two"):
        warp_error(moving(0, 0)[:1])
