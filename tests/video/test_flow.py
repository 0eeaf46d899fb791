"""Optical flow: frames in between, and frames that follow on the paths of what moves."""

import cv2
import numpy as np
import pytest
import torch

from tav_core import TavError
from tav_core.video.continuation import FOLLOWED, continued_by_flow, frames_to_follow
from tav_core.video.flow import interpolated_by_flow, splatted
from tav_core.video.layers import Layers

SIZE, SIDE = 96, 24


def textured(height: int, width: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(size=(height // 4 + 1, width // 4 + 1, 3)).astype(np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)


GROUND, SQUARE = 0.5 * textured(SIZE, 2 * SIZE, 0), 0.5 + 0.5 * textured(SIDE, SIDE, 1)


def drawn(places, pan: int = 0) -> torch.Tensor:
    """Frames with a bright square at these left upper corners, (x, y), before a dark ground that goes to the left."""
    frames = []
    for number, (x, y) in enumerate(places):
        frame = GROUND[:, number * pan :][:, :SIZE].copy()
        frame[y : y + SIDE, x : x + SIDE] = SQUARE
        frames.append(frame)
    return torch.from_numpy(np.stack(frames))


def centre(frame: torch.Tensor) -> np.ndarray:
    return np.argwhere(frame.numpy().mean(axis=-1) > 0.5).mean(axis=0)[::-1]


def assert_follows(made: torch.Tensor, truths: torch.Tensor, within: float) -> None:
    """The square is where it shall be, within so many pixels, and as it was."""
    for one, true in zip(made, truths, strict=True):
        assert np.abs(centre(one) - centre(true)).max() < within
        square = true.mean(dim=-1) > 0.55
        assert (one - true)[square].abs().mean() < 0.1


def continued(*given) -> torch.Tensor:
    return torch.stack(list(continued_by_flow(*given)))


LINE = [(4 + 3 * t, 20 + 2 * t) for t in range(12)]
CURVE = [
    (4 + 4 * t, 64 - 8 * t + t * (t - 1) // 2) for t in range(12)
]  # without its acceleration, 8 pixels off after 4 frames


CIRCLE = [(round(36 + 26 * np.cos(0.4 * t)), round(36 + 26 * np.sin(0.4 * t))) for t in range(12)]


@pytest.mark.parametrize(
    ("path", "within"), [(LINE, 1.5), (CURVE, 2.0), (CIRCLE, 4.0)], ids=["line", "curve", "circle"]
)
@pytest.mark.parametrize("direction", ["onwards", "backwards"])
def test_what_moves_goes_on_as_it_did(path, within, direction):
    frames = drawn(path)
    shown, hidden = (frames[4:], frames[:4]) if direction == "backwards" else (frames[:8], frames[8:])
    assert_follows(continued(shown, 4, direction), hidden, within)


def test_the_ground_stays_where_nothing_hid_it():
    frames = drawn(LINE)
    made = continued(frames[:8], 1, "onwards")
    never_hidden = (frames[:10] - frames[:1]).abs().sum(dim=(0, -1)) == 0
    assert (made - frames[8:10])[:, never_hidden].abs().mean() < 0.01


def test_a_camera_that_pans_goes_on():
    frames = drawn([(36, 36)] * 12, pan=3)
    made = continued(frames[:8], 3, "onwards")
    assert_follows(made, frames[8:11], 1.0)
    left = slice(0, 30)  # its right edge shows what no frame has shown yet
    assert (made - frames[8:11])[:, :, left].abs().mean() < 0.03


def two_things(number: int) -> np.ndarray:
    """The square on its curve, and a dark disc that goes the other way, before a plain ground that a camera pans."""
    frame = drawn(CURVE)[number].numpy().copy()
    columns = np.arange(SIZE) + 2 * number
    frame[frame.mean(axis=-1) < 0.5] = 0.3
    frame[:, (columns % 40 < 2)] += 0.05
    return cv2.circle(frame, (88 - 4 * number, 82), 9, (0.0, 0.1, 0.0), cv2.FILLED, cv2.LINE_AA)


def test_two_things_go_their_own_ways_before_a_ground_that_shows_little():
    frames = torch.from_numpy(np.stack([two_things(number) for number in range(11)]))
    made = continued(frames[:8], 3, "onwards")
    assert_follows(made, frames[8:], 2.0)
    dark = [np.argwhere(frame.numpy().max(axis=-1) < 0.2).mean(axis=0)[::-1] for frame in (*made, *frames[8:])]
    assert np.abs(np.subtract(dark[:3], dark[3:])).max() < 2


def test_ground_that_a_thing_has_passed_does_not_go_along():
    frames = drawn(CURVE)
    things = Layers(frames[:8].flip(0)).things
    assert len(things) == 1
    x, y = CURVE[7]
    truth = np.zeros((SIZE, SIZE), bool)
    truth[y : y + SIDE, x : x + SIDE] = True
    assert (things[0].region & ~truth).sum() < 0.1 * truth.sum()
    assert (truth & ~things[0].region).sum() < 0.1 * truth.sum()


LEAP = [(2 + 8 * t, 2 + round(2.4 * (t - 3.5) ** 2)) for t in range(9)]  # up to 17 pixels a frame


def test_the_ground_around_what_is_too_fast_for_the_flow_stays():
    frames, still = drawn(LEAP), torch.from_numpy(GROUND[:, :SIZE])
    made = continued(frames[:8], 1, "onwards")
    for one, true in zip(made, frames[8:], strict=True):
        ground = (true - still).abs().amax(dim=-1) < 0.01
        assert ((one - true).abs().amax(dim=-1)[ground] > 0.1).float().mean() < 0.03
        assert np.abs(centre(one) - centre(true)).max() < 2


def test_what_a_shaking_camera_sees_is_ground_all_the_same():
    """It is compared with the ground where the camera was, not where it would have been had it moved evenly."""
    image, places = textured(128, 128, 3), [(16, 16), (20, 13), (15, 18), (18, 22), (13, 17)]
    images = [image[y : y + SIZE, x : x + SIZE] for x, y in places]
    ground = Layers(torch.from_numpy(np.stack(images))).ground
    assert max(ground.differs(each, ago).mean() for ago, each in enumerate(images)) < 0.1


def test_two_frames_give_a_speed():
    frames = drawn(LINE)
    assert_follows(continued(frames[:2], 2, "onwards"), frames[2:4], 1.5)


def test_what_moves_is_in_front_of_what_it_reaches():
    """A bright square that runs onto a grey one that stands."""
    frames = drawn([(4 + 4 * t, 36) for t in range(10)])
    standing = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    standing[30:66, 60:90] = True
    frames = torch.where((standing & (frames.mean(dim=-1) < 0.5))[..., None], torch.tensor(0.3), frames)
    assert_follows(continued(frames[:7], 3, "onwards"), frames[7:], 1.5)


@pytest.mark.parametrize("zoom", [1.02, 1.05])
def test_a_camera_that_zooms_goes_on_for_a_while(zoom):
    """All of the frame moves against its middle, and is no thing for it."""
    image, centre_of = textured(128, 128, 3), (63.5, 63.5)
    frames = [cv2.warpAffine(image, cv2.getRotationMatrix2D(centre_of, 0, zoom**t), (128, 128)) for t in range(10)]
    frames = torch.from_numpy(np.stack(frames)).clamp(0, 1)
    errors = [(made - frames[8:]).square().mean() for made in (continued(frames[:8], 2, "onwards"), frames[[7, 7]])]
    assert errors[0] < 0.3 * errors[1]


def test_frames_before_a_cut_do_not_count():
    before, after = 1 - drawn(LINE), drawn([(36, 36)] * 12, pan=3)
    made = continued(torch.cat([before[:4], after[:4]]), 2, "onwards")
    assert torch.equal(made, continued(after[:4], 2, "onwards"))
    held = continued(torch.cat([before[:7], after[:1]]), 2, "onwards")
    assert torch.equal(held, after[[0, 0]])


def test_a_thing_may_be_large():
    """OpenCV maps at most 32767 points in one column."""
    frames = drawn([(30 + t, 30) for t in range(4)]).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    assert_follows(continued(frames[:3], 1, "onwards"), frames[3:], 8.0)


@pytest.mark.parametrize("size", [(8, 64), (12, 200), (8, 8), (64, 8)])
def test_frames_may_be_small(size):
    """DIS crashes the process on frames that are low and wide."""
    frames = torch.rand(4, *size, 3, generator=torch.Generator().manual_seed(0))
    for direction in ("onwards", "backwards", "loop"):
        made = continued(frames, 2, direction)
        assert made.shape == (2, *size, 3)
        assert made.isfinite().all()


@pytest.mark.parametrize("count", [3, 8])
@pytest.mark.filterwarnings("error")
def test_a_fade_to_black_goes_on(count):
    """What moved in the last frame looks just like the ground around it."""
    made = continued(drawn(LINE[:count]) * torch.linspace(1, 0, count)[:, None, None, None], 2, "onwards")
    assert made.isfinite().all()


def test_a_single_frame_shows_no_motion():
    with pytest.raises(TavError, match="at least 2 frames, got 1"):
        continued(drawn(LINE[:1]), 2, "onwards")


def test_a_loop_leads_from_the_end_to_the_start():
    frames = drawn(LINE[:5])
    made = continued(frames, 3, "loop")
    assert torch.equal(made, torch.stack(list(interpolated_by_flow(frames[[4, 0]], 4))[1:4]))
    places = [centre(frame)[0] for frame in (frames[4], *made, frames[0])]
    assert places == sorted(places, reverse=True)


@pytest.mark.parametrize("direction", ["onwards", "backwards", "loop"])
def test_only_the_frames_to_follow_count_and_bytes_are_taken_as_well(direction):
    frames = drawn(LINE)
    near = frames_to_follow(frames, direction)
    assert len(near) == (2 if direction == "loop" else FOLLOWED + 1)
    made = continued(frames, 2, direction)
    assert torch.equal(made, continued(near, 2, direction))
    as_bytes = (255 * frames).round().byte()
    assert (continued(as_bytes, 2, direction) - made).abs().mean() < 0.01


def test_pixels_in_between_come_from_where_they_are_sure():
    """A square that moves by a quarter of its side: what it uncovers is ground, not a mixture with the square."""
    frames = drawn([(20, 36), (26, 36)])
    middle, truth = list(interpolated_by_flow(frames, 2))[1], drawn([(23, 36)])[0]
    assert (middle - truth).abs().mean() < 0.25 * (frames.mean(dim=0) - truth).abs().mean()


def test_a_pixel_is_shared_out_between_the_four_that_it_falls_on():
    image, motion = np.ones((4, 4, 1), np.float32), np.zeros((4, 4, 2), np.float32)
    motion[1, 1], weights = (0.25, 0.5), np.zeros((4, 4), np.float32)
    weights[1, 1] = 2
    sums, shares = splatted(3 * image, motion, weights)
    expected = np.zeros((4, 4))
    expected[1:3, 1:3] = [[0.75, 0.25], [0.75, 0.25]]
    assert np.allclose(shares, expected)
    assert np.allclose(sums[..., 0], 3 * expected)


def test_two_shots_are_not_blended():
    first, second = drawn(LINE[:2]), 1 - drawn(LINE[:2])
    made = list(interpolated_by_flow(torch.cat([first, second]), 4))
    assert len(made) == 13
    for frame in made[5:7]:
        assert torch.equal(frame, first[1])
    assert torch.equal(made[7], second[0])
    assert not torch.equal(made[3], made[4])
    closing = continued(torch.cat([second, first]), 3, "loop")  # a loop has to lead from one to the other
    assert not any(torch.equal(frame, end) for frame in closing for end in (first[1], second[0]))
