"""Finds cuts: where a clip goes from one shot to another."""

from itertools import pairwise

import cv2
import numpy as np
from torch import Tensor

from .pixels import to_uint8

DIFFERENT = 0.5  # Bhattacharyya distance of two frames' colours, 0..1
JUMP = 3.0  # how many times as far as other neighbouring frames


def cut_in(frames: Tensor) -> int | None:
    """The number, from 1, of the last frame before the clearest cut; None if there is none.

    frames: (f, h, w, 3) in 0..1. Compares colour histograms of neighbouring frames, so that motion alone, however fast,
    is no cut.
    """
    if len(frames) < 2:
        return None
    histograms = [_histogram(to_uint8(frame)) for frame in frames]
    distances = np.array([cv2.compareHist(*pair, cv2.HISTCMP_BHATTACHARYYA) for pair in pairwise(histograms)])
    last = int(distances.argmax())
    others = np.delete(distances, last)
    usual = float(np.quantile(others, 0.75)) if len(others) else 0.0
    return last + 1 if distances[last] > max(DIFFERENT, JUMP * usual) else None


def _histogram(image: np.ndarray) -> np.ndarray:
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
    counts = cv2.calcHist(
        [cv2.cvtColor(small, cv2.COLOR_RGB2HSV)], [0, 1, 2], None, [12, 4, 4], [0, 180, 0, 256, 0, 256]
    )
    return cv2.normalize(counts, None, 1, 0, cv2.NORM_L1)
