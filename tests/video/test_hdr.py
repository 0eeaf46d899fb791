"""HDR and wide-gamut clips look as the same colours in BT.709 do."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from tav_core.video.hdr import BT2020, HLG, P3, PQ, TO_BT709, to_bt709
from tav_core.video.read import read_frames
from tav_core.video.write import write_video

SDR_TRANSFER = 1
COLOURS = [(16,) * 3, (64,) * 3, (128,) * 3, (200,) * 3, (230,) * 3, (200, 30, 40), (30, 180, 60), (20, 60, 210)]
PATCH = 32


def encoded(colour, transfer: int, primaries: int = BT2020) -> np.ndarray:
    """An sRGB-like triple of 0..255 as HDR's signal, 0..1: as a display of SDR shows it, white at 203 cd/m2."""
    light = np.linalg.inv(TO_BT709[primaries]) @ ((np.array(colour) / 255) ** 2.4) * 203
    light = light.clip(0)
    if transfer == PQ:
        power = (light / 10000) ** (2610 / 16384)
        return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    if transfer == HLG:
        luminance = light @ np.array([0.2627, 0.6780, 0.0593]) / 1000
        scene = light / 1000 * max(luminance, 1e-9) ** (-1 / 6)
        bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)
    return (light / 203) ** (1 / 2.4)


def write(path, pictures: list[np.ndarray], transfer: int, primaries: int):
    """A HEVC of 10 bits, tagged as phones do; pictures: signal, 0..1."""
    if "libx265" not in av.codecs_available:
        pytest.skip("this PyAV has no libx265")
    names = {PQ: "smpte2084", HLG: "arib-std-b67", SDR_TRANSFER: "bt709"}, {BT2020: "bt2020", P3: "smpte432"}
    tags = f"transfer={names[0][transfer]}:colorprim={names[1][primaries]}:colormatrix=bt2020nc"
    with av.open(str(path), "w") as container:
        options = {"crf": "4", "x265-params": f"log-level=none:bframes=0:pools=none:frame-threads=1:{tags}"}
        stream = container.add_stream("libx265", rate=24, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p10le"
        for number, picture in enumerate(pictures):
            pixels = (picture.clip(0, 1) * 65535).round().astype(np.uint16)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le")
            frame = frame.reformat(format="yuv420p10le", dst_colorspace=9)  # H.273: BT.2020
            frame.pts, frame.time_base = number, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def patches(transfer: int, primaries: int) -> np.ndarray:
    return np.kron(np.stack([encoded(c, transfer, primaries) for c in COLOURS])[None], np.ones((PATCH, PATCH, 1)))


@pytest.mark.parametrize(
    ("transfer", "primaries"),
    [(PQ, BT2020), (HLG, BT2020), (SDR_TRANSFER, BT2020), (SDR_TRANSFER, P3)],
    ids=["PQ", "HLG", "BT.2020", "P3"],
)
def test_a_patch_has_the_colour_that_it_has_in_bt709(tmp_path, transfer, primaries):
    picture = patches(transfer, primaries)
    path = write(tmp_path / "phone.mp4", [picture] * 2, transfer, primaries)
    frame = read_frames(path, 1, size=picture.shape[1::-1]).frames[0] * 255
    centres = frame[PATCH // 2, PATCH // 2 :: PATCH]
    assert (centres - torch.tensor(COLOURS)).abs().max() <= 6  # 10 bits of PQ hold the dark part of a colour no better


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_highlights_are_compressed_in_order_and_without_a_change_of_hue(transfer):
    light = np.linspace(0, 1, 200)
    grey = to_bt709((light[None, :, None] * 65535).astype(np.uint16).repeat(3, 2), transfer, BT2020)[0].astype(int)
    assert (np.diff(grey[:, 0]) >= 0).all()
    assert (np.ptp(grey, axis=1) <= 1).all()  # of 8 bits
    sdr_white = to_bt709((encoded((255,) * 3, transfer) * 65535).astype(np.uint16)[None, None], transfer, BT2020)
    assert 235 <= sdr_white.min() < 255  # with room for lights above it
    assert grey[-1].min() == 255


def test_a_bt709_clip_is_not_touched(monkeypatch, tmp_path):
    from tav_core.video import frames

    monkeypatch.setattr(frames, "to_bt709", lambda *_: pytest.fail("mapped"))
    write_video(tmp_path / "clip.mp4", torch.full((2, 64, 64, 3), 240 / 255), 8)
    assert (read_frames(tmp_path / "clip.mp4", 2, size=64).frames * 255 - 240).abs().max() <= 2
