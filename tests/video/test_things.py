"""Which regions of a frame are one thing, and how it goes on."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from tav_core.video.flow import optical_flow
from tav_core.video.things import things_in

SIZE, SIDE, FRAMES, GAP = 96, 24, 6, 3


def textured(height: int, width: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(size=(height // 4 + 1, width // 4 + 1, 3)).astype(np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)


GROUND = 0.5 * textured(SIZE, SIZE, 0)
PARTS = [0.5 + 0.5 * textured(SIDE, SIDE, seed) for seed in (1, 2)]


def seen(speeds, flickers: bool = False) -> list:
    """The things of two parts, one beside the other with a gap between them, that move at these speeds."""
    images, masks = [], []
    for ago in range(FRAMES):
        image, mask = GROUND.copy(), np.zeros((SIZE, SIZE), bool)
        for number, (speed, part) in enumerate(zip(speeds, PARTS, strict=True)):
            pixels = np.full_like(part, ago % 2) if number and flickers else part
            x, y = 30 + number * (SIDE + GAP), 40 - speed * ago
            image[y : y + SIDE, x : x + SIDE], mask[y : y + SIDE, x : x + SIDE] = pixels, True
        images.append(image)
        masks.append(mask)
    flows = [optical_flow(*map(torch.from_numpy, pair)) for pair in pairwise(images)]
    still = [np.zeros(2)] * FRAMES
    return list(things_in(images, flows, still, masks, masks[0]))


@pytest.mark.parametrize("flickers", [False, True])
def test_parts_that_go_together_are_one_thing(flickers):
    """The second time, one of them looks different in each frame, so that it shows no way of its own."""
    things = seen((3, 3), flickers)
    assert len(things) == 1
    assert np.abs(things[0].movement.at(4) - (0, 12)).max() < 1.5
    assert things[0].region.sum() > 1.8 * SIDE**2


def test_things_that_touch_go_their_own_ways():
    things = seen((4, -4))
    assert len(things) == 2
    down, up = sorted(things, key=lambda thing: -thing.movement.speed[1])
    assert np.abs(down.movement.at(4) - (0, 16)).max() < 2
    assert np.abs(up.movement.at(4) - (0, -16)).max() < 2
