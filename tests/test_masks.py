import pytest
import torch

from tav_core import TavError
from tav_core.masks import above_threshold, latent_mask, word_map


def test_a_mask_falls_on_the_latents_that_it_covers():
    mask = torch.zeros(2, 64, 96)
    mask[0, 8:24, 16:40] = 1
    mask[1, :4] = 1
    found = latent_mask(mask, 2, (8, 12))
    expected = torch.zeros(2, 8, 12)
    expected[0, 1:3, 2:5] = 1
    expected[1, 0] = 0.5  # half of each latent
    assert torch.equal(found[0, 0], expected)
    assert latent_mask(mask[:1], 5, (8, 12)).shape == (1, 1, 5, 8, 12)


@pytest.mark.parametrize("grow", [1, 5, 20])
def test_growing_is_in_pixels_on_all_sides(grow):
    mask = torch.zeros(1, 64, 64)
    mask[0, 30:34, 30:34] = 1
    grown = torch.zeros(1, 64, 64)
    grown[0, max(0, 30 - grow) : 34 + grow, max(0, 30 - grow) : 34 + grow] = 1
    assert torch.equal(latent_mask(mask, 1, (8, 8), grow), latent_mask(grown, 1, (8, 8)))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(3, 64, 64), "has 2 frames"),
        (torch.zeros(64, 64), "has 2 frames"),
        (torch.zeros(2, 64, 96), "different aspect ratio"),
    ],
)
def test_masks_of_other_shapes_are_refused(mask, message):
    with pytest.raises(TavError, match=message):
        latent_mask(mask, 2, (8, 8))


@pytest.mark.parametrize("size", [(64, 64), (45, 80), (80, 45), (69, 96), (54, 112), (12, 5), (13, 8)])
def test_a_word_is_found_at_every_size_of_video(size):
    """A network of four levels halves as its convolutions do, rounding up."""
    kept, heads, levels, (height, width) = {}, {}, [], size
    for level in range(4):
        levels.append((height, width))
        query = torch.zeros(2, height * width, 4)
        query[:, : height * width // 2] = 9  # the upper half looks for the first word
        kept |= {f"{level}.attn2.to_q": query, f"{level}.attn2.to_k": torch.tensor([[[1.0] * 4, [-1.0] * 4]])}
        heads[f"{level}"] = 1
        height, width = -(-height // 2), -(-width // 2)
    found = word_map(kept, heads, [0], size)
    assert found.shape == (2, *size)
    assert found[:, : size[0] // 3].min() > 0.9 > 0.6 > found[:, -(size[0] // 3) :].max()


def test_a_word_that_is_everywhere_makes_no_mask():
    with pytest.raises(TavError, match="nowhere in particular"):
        above_threshold([torch.ones(2, 4, 4)], 0.3)
    mask = above_threshold([torch.eye(4).expand(2, 4, 4)], 0.3)
    assert mask.shape == (2, 32, 32)
    assert mask.mean() == 0.25
