"""The drawn world: what its images show, and the truth about them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from tav_core.world.draw import depth, draw, flow, poses, truth
from tav_core.world.figures import joints
from tav_core.world.scene import (
    ACTIONS,
    COLOURS,
    FIGURES,
    GROUNDS,
    SIZE,
    SIZES,
    STYLES,
    Light,
    Scene,
    Thing,
    random_scene,
    standing,
)
from tav_core.world.vocabulary import WORDS, unknown_words

BALL = Thing("ball", "red", (0.4, 0.5), 0.12, foot=0.75)
BOX = Thing("box", "blue", (0.5, 0.55), 0.12, foot=0.9)


def figure(action: str, phase: float = 0.5, kind: str = "robot") -> Thing:
    return Thing(kind, "pink", (0.5, standing(0.9, 0.14)), 0.14, 0.9, action=action, phase=phase)


def test_captions_are_english():
    def caption(*things: Thing, **fields) -> str:
        return Scene(things, "beach", **fields).caption

    assert caption(BALL) == "a red ball is moving on the beach"
    assert caption(replace(BALL, colour="orange"), style="night") == "an orange ball is moving on the beach, at night"
    assert caption(replace(BALL, size="large"), BOX) == "a large red ball and a blue box are moving on the beach"
    both = "a pink robot is waving and a blue box is moving on the beach"
    assert caption(figure("waving"), BOX) == both
    assert caption(replace(BALL, striped=True)) == "a red sks ball is moving on the beach"


def test_every_word_of_a_caption_is_in_the_vocabulary():
    captions = [random_scene(np.random.default_rng(seed)).caption for seed in range(300)]
    assert not [caption for caption in captions if unknown_words(caption)]
    said = set(" ".join(captions).replace(",", "").split())
    assert {*COLOURS, *FIGURES, *ACTIONS, *GROUNDS, *SIZES} <= said <= set(WORDS)


def test_a_size_word_means_a_size_and_none_means_any():
    things = [thing for seed in range(400) for thing in random_scene(np.random.default_rng(seed)).things]
    for size, (least, most) in SIZES.items():
        radii = [thing.radius for thing in things if thing.size == size]
        assert len(radii) > 50
        assert least <= min(radii) < max(radii) <= most
    unsaid = [thing.radius for thing in things if not thing.size]
    assert min(unsaid) < SIZES["small"][1]
    assert max(unsaid) > SIZES["large"][0]


@pytest.mark.parametrize("ground", GROUNDS)
def test_grounds_differ_from_seed_to_seed_and_are_larger_than_the_frame(ground):
    scene = Scene((), ground)
    image, other, panned = (
        draw(changed).astype(float) for changed in (scene, replace(scene, seed=1), replace(scene, camera=(0.25, 0.0)))
    )
    assert np.abs(image - other).mean() > 3
    by = SIZE // 4
    assert np.abs(panned[:, :-by] - image[:, by:]).mean() < 0.1
    assert np.abs(panned - image).mean() > 2


def test_the_light_changes_shade_and_shadow():
    left, right, dark = (
        draw(Scene((BALL,), "road", light=Light(*light))).astype(float)
        for light in ((-1, 1.0, 0.0), (1, 1.0, 0.0), (1, 0.85, 0.0))
    )
    row, column = round(BALL.foot * SIZE), round(BALL.centre[0] * SIZE)
    shadows = (right - left)[row - 2 : row + 3]  # the light is opposite the shadow
    assert shadows[:, column + 12].mean() > 20
    assert shadows[:, column - 12].mean() < -20
    assert np.abs(dark - 0.85 * right).max() < 1.5


@pytest.mark.parametrize("style", STYLES)
def test_a_nearer_thing_hides_a_farther_one(style):
    scene = Scene((BALL, BOX), "grass", style)
    one = truth(scene)
    assert one.masks.sum() == (one.masks.any(axis=0)).sum()
    assert (one.masks[1] == one.whole[1]).all()
    assert 0.4 < one.shares[0] < 0.7
    assert one.shares[1] > 0.95
    assert one.centres[0][0] < BALL.centre[0] - 0.02  # of what can be seen of it
    behind = truth(scene.with_thing(1, foot=0.6))
    assert behind.shares[0] > 0.95 > behind.shares[1]


def test_a_thing_that_leaves_has_a_share_and_then_no_centre():
    shares = [truth(Scene((replace(BALL, centre=(x, 0.5)),), "sea")).shares[0] for x in (0.5, 1.0, 1.05, 1.2)]
    assert shares == pytest.approx([1, 0.5, 0.24, 0], abs=0.05)
    assert truth(Scene((replace(BALL, centre=(1.2, 0.5)),), "sea")).centres == [None]


def test_shapes_of_one_radius_have_one_size():
    sizes = [truth(Scene((replace(BALL, kind=kind),), "sea")).sizes[0] for kind in ("ball", "box", "triangle", "star")]
    assert max(sizes) < 1.02 * min(sizes)
    assert sizes[0] == pytest.approx(BALL.radius * np.sqrt(np.pi), rel=0.02)


def test_flow_leads_to_the_next_frame():
    """A pan, a ball that grows as it moves and a robot whose limbs turn, where nothing covers the other."""
    before = Scene((BALL, figure("walking", 0.1)), "grass", camera=(0.1, 0.0))
    before = before.with_thing(1, centre=(0.75, standing(0.95, 0.14)), foot=0.95)
    after = replace(before, camera=(0.13, 0.01))
    after = after.with_thing(0, centre=(0.43, 0.47), radius=0.13).with_thing(1, centre=(0.78, 0.67), phase=0.17)
    field = flow(before, after)
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    warped = cv2.remap(draw(after).astype(np.float32), columns + field[..., 0], rows + field[..., 1], cv2.INTER_LINEAR)
    error, unmoved = (np.abs(image - draw(before)).mean(axis=2) for image in (warped, draw(after).astype(float)))
    masks = truth(before).masks
    inside = [cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) > 0 for mask in masks]
    near = cv2.dilate(masks.any(0).astype(np.uint8), np.ones((25, 25))) > 0
    ground = ~near
    ground[:3] = ground[:, :6] = False  # what leaves the frame has no next place
    for where in (*inside, ground):
        assert error[where].mean() < 0.35 * unmoved[where].mean()
    mask = cv2.remap(truth(after).masks[1].astype(np.float32), columns + field[..., 0], rows + field[..., 1], 1)
    assert mask[inside[1]].mean() > 0.97


def test_near_is_bright_in_the_depth():
    scene = Scene((BALL, BOX), "road")
    image, one = depth(scene), truth(scene)
    assert image[one.masks[1]].min() > image[one.masks[0]].max() - 3
    column = image[:, 2].astype(int)
    assert column[0] == 0
    assert (np.diff(column) >= 0).all()
    # a thing is as near as the ground that it stands on
    assert abs(int(np.median(image[one.masks[0]])) - column[round(BALL.foot * SIZE)]) <= 4


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("kind", FIGURES)
def test_a_figures_joints_are_within_it_and_move(kind, action):
    frames = [Scene((figure(action, phase, kind),), "snow") for phase in (0.25, 0.55)]
    for scene in frames:
        body = np.floor(joints(scene.things[0]) * SIZE).astype(int)
        mask = cv2.dilate(truth(scene).masks[0].astype(np.uint8), np.ones((3, 3)))
        assert mask[body[:, 1], body[:, 0]].all()
    first, second = (truth(scene).masks[0] for scene in frames)
    assert (first & second).sum() / (first | second).sum() < 0.93
    skeleton = poses(frames[0])
    assert skeleton[first].any(axis=1).mean() > 0.1
    assert not skeleton[~cv2.dilate(first.astype(np.uint8), np.ones((5, 5))).astype(bool)].any()


def test_objects_have_no_pose():
    assert not poses(Scene((BALL, BOX), "snow")).any()
