"""Chooses frames of a source, and checks their size."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from ..errors import TavError, shown

LARGEST = 16384  # pixels a side
FITS = ("crop", "pad", "stretch")


def select_frames(total: int, num_frames: int, start: int = 0, stride: int = 0, *, at_most: bool = False) -> list[int]:
    """Chooses frames among 0..total-1: strictly increasing indices, the first of which is `start`.

    Stride 0: round(linspace(start, total - 1, num_frames)). Otherwise the first `num_frames` of
    range(start, total, stride), as in the original. Raises TavError if there are fewer frames than asked for, unless
    `at_most` takes those.
    """
    _check_selection(num_frames, start, stride)
    if start >= total:
        raise TavError(f"start is {start}, but there are only {total} frames, counted from 0; start earlier.")
    available = range(start, total, stride or 1)
    if at_most:
        num_frames = min(num_frames, len(available))
    if num_frames > len(available):
        where = f"from frame {start} on" + (f" with stride {stride}" if stride > 1 else "")
        ways = [f"ask for {len(available)}"] + ["start earlier"] * (start > 0) + ["lower the stride"] * (stride > 1)
        raise TavError(
            f"{num_frames} frames are asked for, but {where} only {len(available)} of {total} frames are available; "
            f"{' or '.join(ways)}."
        )
    if stride:
        return list(available[:num_frames])
    return np.linspace(start, total - 1, num_frames).round().astype(int).tolist()


def choose_frames(
    moments: Sequence[float | None],
    num_frames: int,
    start: int = 0,
    stride: int = 0,
    *,
    by_time: bool | None = None,
    at_most: bool = False,
) -> tuple[list[int], bool]:
    """The numbers of the chosen frames, never decreasing, and whether they were chosen by time.

    moments: the seconds at which each frame is displayed, None where unknown.
    by_time: choose what is on screen at `num_frames` evenly spaced moments, so that a frame that stays longer may be
        taken twice; otherwise as `select_frames` does. None: by time where the frame rate varies, unless all frames
        from `start` on are asked for. Frames at a stride are never chosen by time.
    Raises TavError as `select_frames` does, and for a choice by time without moments.
    """
    chosen = select_frames(len(moments), num_frames, start, stride, at_most=at_most)
    left = moments[start:]
    if by_time and None in left:
        raise TavError(
            "The frames cannot be chosen by time, because the file does not say when they are displayed; choose them "
            "by number."
        )
    if by_time is None:
        by_time = not stride and 1 < len(chosen) < len(left) and rate_varies(left)
    if not by_time:
        return chosen, False
    wanted = np.linspace(left[0], left[-1], len(chosen)) + 1e-6  # to the microsecond, as containers store times
    return (start + np.searchsorted(left, wanted, side="right") - 1).tolist(), True


def rate_varies(moments: Sequence[float | None]) -> bool:
    """Whether any frame is displayed more than the mean duration of a frame off an even pace.

    A single frame that lasts for half of the clip is rather a gap in its timestamps, and counts for nothing.
    """
    if len(moments) < 3 or None in moments:
        return False
    times = np.subtract(moments, moments[0])
    durations, mean = np.diff(times), times[-1] / (len(times) - 1)
    off = np.abs(times - mean * np.arange(len(times))).max()
    return bool(durations.min() >= 0 and durations.max() < times[-1] / 2 and off > mean)


def pace(moments: Sequence[float | None], stated: float) -> float:
    """The frames a second of a stretch of frames: the stated rate, unless their moments are more than a frame off it.

    Moments that jump, as in `rate_varies`, count for nothing; neither do those of fewer than 4 frames.
    """
    if len(moments) < 4 or None in moments:
        return stated
    durations, whole = np.diff(moments), moments[-1] - moments[0]
    jumps = durations.min() < 0 or durations.max() >= whole / 2
    steps = len(moments) - 1
    return stated if jumps or abs(stated * whole - steps) <= 1 else steps / whole


def check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns (width, height) for one side or both; raises TavError if the VAE cannot take them."""
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, Integral) for side in sides):
        raise TavError(
            f"The size is {shown(size)}, but a whole number or (width, height) is needed; give 512, for example."
        )
    if max(sides) > LARGEST:
        raise TavError(f"The size is {'x'.join(map(str, sides))[:60]}, but {LARGEST} pixels a side is the most.")
    if any(side < 8 or side % 8 for side in sides):
        got, nearest = ("x".join(map(str, s)) for s in (sides, [max(8, round(side / 8) * 8) for side in sides]))
        raise TavError(f"The size is {got}, but Stable Diffusion's VAE needs multiples of 8; try {nearest}.")
    return sides


def check_choice(num_frames: int, size, start: int, stride: int, fit: str, by_time: bool | None = None) -> None:
    check_size(size)
    if by_time and stride:
        raise TavError(f"A stride counts frames, so {stride} cannot go with a choice by time; set it to 0.")
    if fit not in FITS:
        raise TavError(f"Unknown fit {shown(fit)}; choose one of {', '.join(FITS)}.")
    _check_selection(num_frames, start, stride)


def _check_selection(num_frames: int, start: int, stride: int) -> None:
    for name, value in (("frames", num_frames), ("start", start), ("stride", stride)):
        if not isinstance(value, Integral):
            raise TavError(f"{name} is {shown(value)}, but frames are counted in whole numbers; give 1, for example.")
    if num_frames < 1:
        raise TavError(f"{num_frames} frames are asked for, but a clip needs at least one; ask for 1 or more.")
    if start < 0:
        raise TavError(f"start is {start}, but frames are counted from 0; give 0 or more.")
    if stride < 0:
        raise TavError(f"stride is {stride}, but a clip runs forward; give 1 or more, or 0 for uniform frames.")
