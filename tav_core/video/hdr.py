"""Turns HDR (PQ, HLG) and wide-gamut images into BT.709, as an SDR display would show them.

ITU-R BT.2100-2 defines both transfer functions. BT.2408 puts the white of ordinary scenes, which is SDR's white, at
203 cd/m2. What is brighter (lamps, the sky) is compressed into the topmost part of SDR's range.
"""

import cv2
import numpy as np

PQ, HLG = 16, 18  # H.273's numbers of transfer functions, which FFmpeg shares
BT2020, P3 = 9, 12  # and of primaries; P3 with the white of BT.709
WHITE, PEAK = 203.0, 1000.0  # cd/m2: diffuse white, and the brightest that is told apart
KNEE = 0.8  # of the linear range: darker colours keep their values
GAMMA = 2.4  # of an SDR display, ITU-R BT.1886
BT2020_LUMINANCE = np.float32([[0.2627, 0.6780, 0.0593]])
TO_BT709 = {
    BT2020: np.float32([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]),
    P3: np.float32([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]]),
}
"""Linear RGB to BT.709's: by ITU-R BT.2087, and from the primaries of SMPTE 432."""


def needs_mapping(transfer: int, primaries: int) -> bool:
    return transfer in (PQ, HLG) or primaries in TO_BT709


def to_bt709(image: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """Converts an image as encoded, uint16 (h, w, 3), to uint8 in BT.709."""
    linear = _light_of_codes(transfer)[image]  # 1 is SDR's white
    if transfer == HLG:
        linear = _displayed(linear)
    if primaries in TO_BT709:
        linear = cv2.transform(linear, TO_BT709[primaries])
    if transfer in (PQ, HLG):
        linear = _compressed(linear)
    return cv2.convertScaleAbs(cv2.pow(np.clip(linear, 0, 1), 1 / GAMMA), alpha=255)


def _light_of_codes(transfer: int) -> np.ndarray:
    """The linear value of each code of 16 bits, float32 (65536,)."""
    signal = np.linspace(0, 1, 1 << 16)
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = signal ** (1 / m2)
        light = 10000 / WHITE * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    elif transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        light = signal**GAMMA
    return light.astype(np.float32)


def _displayed(scene: np.ndarray) -> np.ndarray:
    """HLG's light of the scene, 0..1, as a display of 1000 cd/m2 shows it."""
    luminance = cv2.transform(scene, BT2020_LUMINANCE)
    return scene * (PEAK / WHITE * cv2.pow(luminance, 0.2))[..., None]


def _compressed(linear: np.ndarray) -> np.ndarray:
    """Brings light up to the peak below 1 by Reinhard's curve above the knee, without a change of hue."""
    brightest = np.maximum.reduce(cv2.split(linear))
    bright = brightest > KNEE
    above, peak = (brightest[bright] - KNEE) / (1 - KNEE), (PEAK / WHITE - KNEE) / (1 - KNEE)
    mapped = KNEE + (1 - KNEE) * above * (1 + above / peak**2) / (1 + above)
    linear[bright] *= (mapped / brightest[bright])[:, None]
    return linear
