"""Where the pixels of one frame are in another."""

import cv2
import numpy as np
import pytest

from tav_core.video.matching import Template, pan

SIZE, RADIUS = 128, 14


def plain(*_) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), 0.4, np.float32)


def textured(seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0.2, 0.6, (SIZE // 8, SIZE // 4, 3)).astype(np.float32)
    return cv2.resize(noise, (2 * SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def ball(ground: np.ndarray, x: float, y: float, radius: float = RADIUS) -> np.ndarray:
    """A ground with a yellow ball at x, y, to 1/16 pixel."""
    frame = ground[:, :SIZE].copy()
    centre = round(16 * x), round(16 * y)
    return cv2.circle(frame, centre, round(16 * radius), (1.0, 0.9, 0.1), cv2.FILLED, cv2.LINE_AA, 4)


def region(x: int, y: int, radius: float = RADIUS) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.hypot(columns - x, rows - y) <= radius


def others(x: int, y: int) -> np.ndarray:
    return region(x, y, RADIUS + 1)


@pytest.mark.parametrize("way", [(0, 0), (3, -2), (-7, 5), (2.5, 0.5)])
def test_a_camera_pans_to_parts_of_a_pixel(way):
    ground = cv2.GaussianBlur(textured(), (0, 0), 2)
    shift = np.float32([[1, 0, way[0]], [0, 1, way[1]]])
    second = cv2.warpAffine(ground, shift, (2 * SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    assert np.abs(pan(ground[:, 20:148], second[:, 20:148]) - way).max() < 0.3


def test_a_large_frame_is_searched_as_far_as_a_small_one():
    ground = cv2.resize(textured(), (2 * SIZE * 5, SIZE * 5), interpolation=cv2.INTER_CUBIC)
    assert np.abs(pan(ground[:, 100:740], ground[:, 60:700]) - (40, 0)).max() < 0.5


def test_bright_things_do_not_make_a_camera_pan():
    ground = textured()
    first, second = ball(ground, 40, 60), ball(ground, 49, 64)
    assert np.abs(pan(first, second)).max() < 0.2


@pytest.mark.parametrize("way", [(6, 3), (-9.5, 4.25), (0.5, -0.25)])
@pytest.mark.parametrize("ground", [plain, textured])
def test_a_thing_is_found_to_parts_of_a_pixel(ground, way):
    template = Template(ball(ground(), 60, 60), region(60, 60))
    x, y = 60 + way[0], 60 + way[1]
    found, error = template.found(ball(ground(), x, y), others(x, y), np.float32([way[0] + 4, way[1] - 5]))
    assert np.abs(found - way).max() < 0.5
    assert error < 0.05


def test_what_is_cut_off_by_the_frames_edge_is_found_by_its_visible_edge():
    """Half of a plain ball fits anywhere inside a whole one, but for its rim of ground."""
    ground = textured()
    template = Template(ball(ground, 127, 60), region(127, 60))
    found, _ = template.found(ball(ground, 117, 60), others(117, 60), np.float32([-6, 0]))
    assert np.abs(found - (-10, 0)).max() < 1


def test_a_thing_is_found_far_away_if_it_shall_be():
    ground, still = textured(), np.zeros(2, np.float32)
    template, there = Template(ball(ground, 40, 60), region(40, 60)), (ball(ground, 70, 44), others(70, 44), still)
    assert template.found(*there)[1] > 0.4
    found, error = template.found(*there, far=True)
    assert np.abs(found - (30, -16)).max() < 0.5
    assert error < 0.05


def test_another_thing_is_not_the_same():
    ground = textured()
    template = Template(ball(ground, 60, 60), region(60, 60))
    _, error = template.found(ground[:, :SIZE].copy(), np.zeros((SIZE, SIZE), bool), np.zeros(2, np.float32))
    assert error > 0.4


def test_a_thing_that_has_gone_is_where_it_was_looked_for():
    template = Template(ball(plain(), 60, 60), region(60, 60))
    near = np.float32([200, 0])
    found, error = template.found(plain(), np.zeros((SIZE, SIZE), bool), near)
    assert np.array_equal(found, near)
    assert np.isinf(error)


def test_what_looks_like_the_ground_around_it_is_not_found():
    template, near = Template(plain(), region(60, 60)), np.float32([3, 0])
    found, error = template.found(plain(), np.zeros((SIZE, SIZE), bool), near)
    assert np.array_equal(found, near)
    assert np.isinf(error)
