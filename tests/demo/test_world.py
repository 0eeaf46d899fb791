import json

import numpy as np
import pytest

from tav_core.demo.readers import read_image
from tav_core.demo.vocabulary import WORDS, unknown_words, write_tokenizer
from tav_core.demo.world import (
    COLOURS,
    GROUNDS,
    MOTIONS,
    SHAPES,
    STYLES,
    Scene,
    background,
    clip_scenes,
    draw,
    draw_clip,
    random_scene,
)


@pytest.fixture(scope="module")
def scenes_and_readings():
    rng = np.random.default_rng(7)
    scenes = [random_scene(rng) for _ in range(200)]
    return [(scene, read_image(draw(scene))) for scene in scenes]


@pytest.mark.parametrize("fact", ["colour", "shape", "ground", "style"])
def test_an_image_is_read_as_what_was_drawn(scenes_and_readings, fact):
    right = [getattr(scene, fact) == getattr(reading, fact) for scene, reading in scenes_and_readings]
    assert np.mean(right) >= 0.99


def test_the_centre_is_read_to_two_hundredths_of_the_width(scenes_and_readings):
    away = [np.hypot(*np.subtract(reading.centre, scene.centre)) for scene, reading in scenes_and_readings]
    assert np.mean(np.array(away) < 0.02) >= 0.99


def test_a_blob_is_no_shape():
    picture = background("grass", "plain").copy()
    picture[60:72, 20:110] = COLOURS["red"]
    reading = read_image(picture)
    assert (reading.colour, reading.shape) == ("red", None)


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("style", STYLES)
def test_an_empty_ground_has_no_object(ground, style):
    reading = read_image(draw(Scene("red", "ball", ground, style, centre=(-1, -1))))
    assert (reading.ground, reading.style, reading.shape, reading.colour) == (ground, style, None, None)


def test_one_seed_draws_one_world():
    first, again = (random_scene(np.random.default_rng(3)) for _ in range(2))
    assert first == again
    assert np.array_equal(draw(first), draw(again))


@pytest.mark.parametrize("motion", MOTIONS)
def test_an_object_keeps_to_its_path_at_either_speed(motion):
    scene = Scene("purple", "box", "snow")
    lengths = {}
    for speed in ("slow", "fast"):
        scenes = clip_scenes(scene, motion, speed=speed, num_frames=8)
        read = np.array([read_image(frame).centre for frame in draw_clip(scenes)])
        known = np.array([scene.centre for scene in scenes])
        assert np.abs(read - known).max() < 0.02
        lengths[speed] = np.linalg.norm(np.diff(known, axis=0), axis=1).sum()
    assert lengths["fast"] > 1.5 * lengths["slow"]


def test_edges_are_smooth():
    picture = draw(Scene("red", "ball", "snow", "cartoon", centre=(0.5, 0.3)))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50  # flat colours and an outline, and all between


def test_a_striped_ball_has_white_bands():
    plain, striped = (draw(Scene("red", "ball", "road", striped=striped)) for striped in (False, True))
    white = [(picture.min(axis=2) > 240)[40:90, 40:90].sum() for picture in (plain, striped)]
    assert white[1] > white[0] + 300


def test_every_caption_is_one_token_a_word(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    rng = np.random.default_rng(1)
    for striped in (False, True):
        for _ in range(200):
            caption = random_scene(rng, striped=striped).caption
            assert len(tokenizer.tokenize(caption)) == len(caption.replace(",", " ,").split()), caption
    assert tokenizer("a ball", padding="max_length").input_ids[-1] == tokenizer.eos_token_id
    assert set(SHAPES) < set(WORDS)
    assert json.loads((tmp_path / "vocab.json").read_text())["<|endoftext|>"] == tokenizer.eos_token_id


def test_words_it_never_read_are_named_once():
    assert unknown_words("A red dog is chasing a dog, cartoon style") == ["dog", "chasing"]
    assert unknown_words("a red ball is moving on the moon, at night") == []
