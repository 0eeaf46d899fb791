"""How a thing goes on whose way so far is known."""

import numpy as np
import pytest

from tav_core.video.movement import Movement

AGO = [1, 2, 3, 4, 5, 6]
SIDE = 128


def straight(time):
    return np.array([4.0, -1.0]) * time


def thrown(time):
    return np.array([5.0, -6.0]) * time + np.array([0.0, 1.5]) * time**2 / 2


def circling(time):
    angle = 0.35 * time
    return 28 * np.array([np.sin(angle), 1 - np.cos(angle)])


def swinging(time):
    return np.array([2.0 * np.sin(0.8 * time) / 0.8, 0.0]) + np.array([20.0 * (1 - np.cos(0.8 * time)), 0.0])


def movement(path, ago=AGO, errors=0.0, noise=0.0):
    draws = np.random.default_rng(0).normal(scale=noise, size=(len(ago), 2))
    ways = [path(-time) + draw for time, draw in zip(ago, draws, strict=True)]
    return Movement(ago, ways, [errors] * len(ago), SIDE)


@pytest.mark.parametrize("path", [straight, thrown, circling, swinging])
def test_a_path_goes_on(path):
    found = movement(path)
    for time in (1, 4, 8):
        assert np.abs(found.at(time) - path(time)).max() < 0.04 * SIDE, time


@pytest.mark.parametrize("path", [straight, thrown, circling])
def test_small_errors_of_places_do_not_lead_astray(path):
    found = movement(path, errors=0.01, noise=0.3)
    assert np.abs(found.at(8) - path(8)).max() < 0.08 * SIDE


def test_what_looks_different_everywhere_shows_no_acceleration():
    """A walker's limbs shift where it is found by a pixel or two, which is no acceleration."""
    found = movement(straight, errors=0.2, noise=1.5)
    assert found.rate is None
    assert np.abs(found.at(8) - straight(8)).max() < 0.08 * SIDE


@pytest.mark.parametrize("ago", [[1], [1, 2]])
def test_two_places_show_a_speed_alone(ago):
    found = movement(thrown, ago)
    assert found.rate is None
    assert np.allclose(found.at(2), 2 * found.speed)


def test_it_need_not_be_seen_in_every_frame():
    assert np.allclose(movement(thrown, [1, 3, 6]).at(8), thrown(8), atol=0.1)


def test_speed_is_that_of_now():
    assert np.allclose(movement(circling).speed, [28 * 0.35, 0], atol=0.3)
