import cv2
import numpy as np
import pytest
import torch

from tav_core.video.contact_sheet import contact_sheet, shown_frames

GREEN, BLUE = (0, 200, 0), (0, 0, 200)


def flat(colour, frames=3, height=40, width=64) -> torch.Tensor:
    return (torch.tensor(colour) / 255).expand(frames, height, width, 3)


def sheet(tmp_path, rows) -> np.ndarray:
    """The sheet's pixels, red first."""
    contact_sheet(tmp_path / "sheet.png", rows)
    return cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1].astype(int)


def is_ink(pixels) -> np.ndarray:
    return pixels.max(-1) < 128


def lines_of(mask) -> list[tuple[int, int]]:
    """Top and bottom of each run of rows that the mask touches."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.any(1), [0]])))
    return list(zip(edges[::2], edges[1::2], strict=True))


def test_each_row_has_its_frames_under_its_label(tmp_path):
    pixels = sheet(tmp_path, [("source", flat(GREEN)), ("a cat", flat(BLUE))])
    (green,), (blue,) = (lines_of((pixels == colour).all(-1)) for colour in (GREEN, BLUE))
    source, cat = lines_of(is_ink(pixels))
    assert source[1] <= green[0] < green[1] <= cat[0] < cat[1] <= blue[0]


def test_frames_stand_in_time_order_and_keep_their_shape(tmp_path):
    clip = torch.cat([flat((60 * i, 0, 200), frames=1) for i in range(4)])
    pixels = sheet(tmp_path, [("source", clip)])
    places = [np.argwhere((pixels == (60 * i, 0, 200)).all(-1)) for i in range(4)]
    lefts = [place[:, 1].min() for place in places]
    assert lefts == sorted(lefts)
    height, width = (np.ptp(places[1], axis=0) + 1).tolist()
    assert width / height == pytest.approx(64 / 40, rel=0.02)


def test_many_frames_are_thinned_out_evenly_from_first_to_last():
    assert shown_frames(24) == [0, 3, 7, 10, 13, 16, 20, 23]
    assert shown_frames(3) == [0, 1, 2]
    assert shown_frames(1) == [0]


def test_a_long_prompt_wraps_and_stays_within_the_frames(tmp_path):
    pixels = sheet(tmp_path, [("a man in pink clothes is skiing " * 8, flat(GREEN, frames=2))])
    assert len(lines_of(is_ink(pixels))) >= 3
    frames = np.flatnonzero((pixels == GREEN).all(-1).any(0))
    ink = np.flatnonzero(is_ink(pixels).any(0))
    assert frames.min() <= ink.min() + 2
    assert ink.max() <= frames.max()


@pytest.mark.parametrize("prompt", ["Kätzchen", "猫" * 200, "мяч", "🐼 panda", "half \ud800 a pair", "\n\t\x00", ""])
@pytest.mark.parametrize("font", ["of OpenCV 5", "of OpenCV 4"])
def test_no_letter_of_a_prompt_breaks_the_sheet(tmp_path, monkeypatch, prompt, font):
    if font == "of OpenCV 4":
        monkeypatch.delattr(cv2, "FontFace", raising=False)
    pixels = sheet(tmp_path, [(prompt, flat(GREEN))])
    assert (pixels == GREEN).all(-1).any()
    assert is_ink(pixels).any() == bool(prompt.strip("\n\t\x00"))


def test_a_sheet_takes_a_name_in_any_script(tmp_path):
    contact_sheet(tmp_path / "猫.png", [("source", flat(GREEN))])
    assert (tmp_path / "猫.png").read_bytes().startswith(b"\x89PNG")
