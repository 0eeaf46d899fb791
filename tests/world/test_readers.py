"""What an image of the drawn world shows can be read back from it."""

import cv2
import numpy as np
import pytest

from tav_core.world.draw import draw, truth
from tav_core.world.readers import SMALLEST, read_image
from tav_core.world.scene import GROUNDS, STYLES, Scene, Thing, random_scene

CLEAR = 0.9  # the visible share from which a silhouette has to be recognised


def is_read(scene: Scene, image: np.ndarray) -> bool:
    reading, one = read_image(image), truth(scene)
    visible = [number for number, mask in enumerate(one.masks) if mask.sum() >= SMALLEST]
    if (reading.ground, reading.style) != (scene.ground, scene.style):
        return False
    if {seen.colour for seen in reading.things} != {scene.things[number].colour for number in visible}:
        return False
    clear = [scene.things[number] for number in visible if one.shares[number] >= CLEAR]
    seen = [reading.thing(thing.colour) for thing in clear]
    return [(each.kind, each.action or "") for each in seen] == [(thing.kind, thing.action) for thing in clear]


def test_99_of_100_random_images_are_read_right():
    """Every ground, style, colour, kind and action, with clouds, shadows and things that hide each other."""
    scenes = [random_scene(np.random.default_rng(seed)) for seed in range(300)]
    wrong = [scene.caption for scene in scenes if not is_read(scene, draw(scene))]
    assert len(wrong) <= 3, wrong


def test_blur_as_of_a_vae_does_not_matter_much():
    scenes = [random_scene(np.random.default_rng(seed)) for seed in range(400, 500)]
    wrong = [scene.caption for scene in scenes if not is_read(scene, cv2.GaussianBlur(draw(scene), (0, 0), 1.0))]
    assert len(wrong) <= 5, wrong


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_cartoon_differs_from_a_plain_image(ground):
    """With craters, shadows, dashes and crests on the ground; also blurred."""
    wrong = []
    for seed in range(12):
        for style in ("plain", "cartoon"):
            image = draw(random_scene(np.random.default_rng(seed), ground=ground, style=style))
            for shown in (image, cv2.GaussianBlur(image, (0, 0), 0.8)):
                wrong += [(seed, style)] if read_image(shown).style != style else []
    assert len(wrong) <= 1, wrong


def test_masks_and_centres_are_read():
    scenes = [random_scene(np.random.default_rng(seed)) for seed in range(300, 360)]
    overlaps = []
    for scene in scenes:
        reading, one = read_image(draw(scene)), truth(scene)
        for thing, mask, centre in zip(scene.things, one.masks, one.centres, strict=True):
            if mask.sum() >= 4 * SMALLEST:
                seen = reading.thing(thing.colour)
                overlaps.append((seen.mask & mask).sum() / (seen.mask | mask).sum())
                assert np.hypot(*np.subtract(seen.centre, centre)) < 0.01
    assert min(overlaps) > 0.85
    assert np.mean(overlaps) > 0.96


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("ground", GROUNDS)
def test_an_empty_ground_shows_nothing(ground, style):
    for seed in range(4):
        reading = read_image(draw(Scene((), ground, style, seed=seed)))
        assert (reading.ground, reading.things) == (ground, ())
        assert (reading.style == "night") == (style == "night")  # without a thing, there are no outlines to see


def test_a_blob_is_of_no_kind():
    image = draw(Scene((), "snow"))
    for corner in ((10, 20), (90, 30), (50, 100)):
        cv2.circle(image, corner, 9, (216, 36, 40), -1)
    (seen,) = read_image(image).things
    assert (seen.colour, seen.kind, seen.action) == ("red", None, None)


def test_mixed_colours_along_an_edge_are_no_third_thing():
    """Along their edge, yellow and blue mix to something that resembles neither."""
    things = Thing("ball", "yellow", (0.45, 0.5), 0.13, 0.8), Thing("box", "blue", (0.6, 0.5), 0.13, 0.9)
    assert [seen.colour for seen in read_image(draw(Scene(things, "road"))).things] == ["blue", "yellow"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [slice(0, 40), slice(84, 128), slice(0, 128)], ids=["sky", "earth", "everything"])
def test_an_image_whose_ground_is_hidden_is_read(rows):
    """As of an edit that went wrong: a method's score must not end in an error."""
    image = draw(Scene((), "road"))
    image[rows] = (216, 36, 40)
    assert read_image(image).thing("red").mask[rows].all()
