import numpy as np
import pytest
import torch

from tav_core.loss_graph import RAW, TREND, loss_graph, smoothed


def spikes(steps: int) -> list[float]:
    return [0.2 - 0.1 * step / steps + 0.08 * (-1) ** step for step in range(steps)]


def test_smoothing_takes_the_spikes_and_leaves_the_trend():
    trend = smoothed(spikes(500))
    jumps = np.abs(np.diff(trend)[50:])
    assert jumps.max() < 0.01  # of 0.16
    assert trend[-1] == pytest.approx(0.105, abs=0.015)
    assert trend[0] == pytest.approx(spikes(500)[0])
    assert smoothed([0.3] * 40) == pytest.approx([0.3] * 40)


@pytest.mark.parametrize("steps", [1, 2, 500])
def test_the_graph_shows_both_lines(steps):
    image = loss_graph(spikes(steps))
    assert (image.shape[-1], image.dtype) == (3, torch.float32)
    pixels = image.view(-1, 3) * 255
    for colour in (TREND, *[RAW] * (steps > 1)):
        distance = (pixels - torch.tensor(colour)).abs().amax(dim=1)
        assert (distance < 30).sum() > 20, colour  # lines are smoothed at their edges


def test_losses_of_zero_can_be_drawn():
    assert loss_graph([0.0, 0.0]).isfinite().all()
