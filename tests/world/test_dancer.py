"""The drawn dancer: its images, skeleton, depth and mask show the same thing at the same place."""

import numpy as np
import pytest

from tav_core.world.dancer import BALL_RADIUS, CLIPS, COLOURS, L_WRIST, LIMBS, dancer, depth, mask, moment_at, poses

SIZE = 256
KINDS = sorted(CLIPS)


def at(pictures: np.ndarray, number: int, place: np.ndarray) -> np.ndarray:
    """The pixel of one frame at a place in fractions of the image's sides."""
    x, y = (place * pictures.shape[1]).astype(int)
    return pictures[number, y, x].astype(int)


def uncovered(moment) -> list[int]:
    """The points of the body that the ball does not cover."""
    far = np.linalg.norm(moment.body - moment.ball, axis=1) > BALL_RADIUS + 0.02
    return np.flatnonzero(far).tolist()


def test_the_skeletons_points_lie_on_the_dancer_where_the_ball_does_not_cover_it():
    white, sticks, moments = mask(size=(SIZE, SIZE)), poses(size=(SIZE, SIZE)), [moment_at(i / 24) for i in range(24)]
    for number, moment in enumerate(moments):
        assert all(at(white, number, moment.body[point])[0] == 255 for point in uncovered(moment))
        wrist = moment.body[L_WRIST]
        assert np.abs(at(sticks, number, wrist) - COLOURS[L_WRIST]).max() < 60
    assert {len(uncovered(moment)) for moment in moments} > {18}  # the ball covers some points in some frames


def test_depth_moves_where_the_image_does_and_is_one_all_over_the_dancer():
    pictures, near, white = (draw(size=(SIZE, SIZE)).astype(int) for draw in (dancer, depth, mask))
    still = [np.median(frames, axis=0) for frames in (pictures, near)]
    for number in range(24):
        seen = np.abs(pictures[number] - still[0]).max(-1) > 40
        told = np.abs(near[number] - still[1]).max(-1) > 25
        assert (seen & told).sum() > 0.8 * told.sum()
        assert len(np.unique(near[number][white[number] == 255])) == 1


def test_the_ball_is_nearer_than_the_dancer_and_passes_in_front_of_it():
    near, white = depth(size=(SIZE, SIZE)), mask(size=(SIZE, SIZE))
    moment = moment_at(6 / 24)
    dancers = near[6][white[6, ..., 0] == 255].max()
    assert at(near, 6, moment.ball)[0] > dancers > near[6, 0].max()
    assert at(white, 6, moment.ball)[0] == 0
    rows, columns = np.nonzero(white[6, ..., 0])
    to_the_ball = np.hypot(columns / SIZE - moment.ball[0], rows / SIZE - moment.ball[1])
    assert to_the_ball.min() < BALL_RADIUS + 0.01


def test_the_ground_comes_nearer_from_the_wall_to_the_lower_edge():
    column = depth(1, size=(SIZE, SIZE))[0, :, 0, 0].astype(int)
    assert (np.diff(column) >= 0).all()
    assert column[0] < 100 < 250 < column[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_closes(kind):
    """From the last frame to the first is as far as from any frame to the next."""
    pictures = CLIPS[kind](size=(SIZE, SIZE)).astype(float)
    steps = np.abs(pictures - np.roll(pictures, 1, axis=0)).mean((1, 2, 3))
    assert (steps > 0).all()
    assert steps[0] <= 1.1 * steps.max()
    np.testing.assert_allclose(moment_at(1.0).body, moment_at(0.0).body, atol=1e-9)
    np.testing.assert_allclose(moment_at(1.0).ball, moment_at(0.0).ball, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(512, 512), (64, 64), (96, 64), (72, 136)])
def test_any_size_and_number_of_frames(kind, size):
    pictures = CLIPS[kind](3, size=size)
    assert pictures.shape == (3, size[1], size[0], 3)
    assert pictures.dtype == np.uint8
    assert all(picture.std() > 5 for picture in pictures)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_call_draws_the_same_images(kind):
    assert np.array_equal(CLIPS[kind](4, size=(64, 64)), CLIPS[kind](4, size=(64, 64)))


def test_a_larger_image_shows_the_same():
    large, small = dancer(2, size=(512, 512)), dancer(2, size=(128, 128))
    shrunk = large.reshape(2, 128, 4, 128, 4, 3).mean((2, 4))
    assert np.abs(shrunk - small).mean() < 2


def test_bones_keep_their_length_and_the_skeleton_has_openposes_limbs():
    thigh, forearm = LIMBS[7], LIMBS[5]
    for a, b in (thigh, forearm):
        lengths = [np.linalg.norm(np.subtract(*moment_at(i / 24).body[[a, b]])) for i in range(24)]
        assert np.ptp(lengths) < 1e-9
    assert len(LIMBS) == 17
    assert len(COLOURS) == 18
    assert {point for limb in LIMBS for point in limb} == set(range(18))
