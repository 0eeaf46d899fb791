"""Contact sheets: one row of frames per video, for comparing videos by eye."""

import os
import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np
from torch import Tensor

from ..files import atomic_path
from .pixels import to_uint8

MOST_COLUMNS = 8
PAPER, INK = 255, (36, 32, 32)  # BGR, as in OpenCV
MARGIN, GAP = 28, 4
FONT_SIZE, LINE = 22, 30
WIDTH = 1440  # of a whole row of frames
WIDEST_FRAME = 480  # so that few frames do not fill the sheet


def contact_sheet(path: str | os.PathLike, rows: Sequence[tuple[str, Tensor]]) -> None:
    """Writes a PNG with a label and a row of frames for each video.

    rows: (label, frames (f, h, w, 3), float in 0..1 or uint8). At most 8 frames are shown, evenly spread from the first
    to the last; long labels wrap.
    """
    strips = [_strip(frames) for _, frames in rows]
    width = max(strip.shape[1] for strip in strips)
    parts = [_paper(MARGIN, width)]
    for (label, _), strip in zip(rows, strips, strict=True):
        right = _paper(len(strip), width - strip.shape[1])
        parts += [_label(label, width), np.hstack([strip, right]), _paper(MARGIN, width)]
    column = np.vstack(parts)
    side = _paper(len(column), MARGIN)
    _, png = cv2.imencode(".png", np.hstack([side, column, side]))
    with atomic_path(path) as temporary:  # cv2.imwrite cannot write non-ASCII names on Windows
        temporary.write_bytes(png.tobytes())


def shown_frames(num_frames: int) -> list[int]:
    """The indices of the frames that a sheet shows: all, or 8 evenly spread from the first to the last."""
    return np.linspace(0, num_frames - 1, min(num_frames, MOST_COLUMNS)).round().astype(int).tolist()


def _strip(frames: Tensor) -> np.ndarray:
    """A row of frames, uint8 (h, w, 3), BGR."""
    chosen = shown_frames(len(frames))
    height, width = frames.shape[1:3]
    size = min((WIDTH + GAP) // len(chosen) - GAP, WIDEST_FRAME)
    interpolation = cv2.INTER_AREA if size < width else cv2.INTER_CUBIC
    row = []
    for frame in frames[chosen]:
        pixels = to_uint8(frame)[..., ::-1]
        image = cv2.resize(pixels, (size, max(round(size * height / width), 1)), interpolation=interpolation)
        row += [image, _paper(len(image), GAP)]
    return np.hstack(row[:-1])


def _label(text: str, width: int) -> np.ndarray:
    write, measure = _pen()
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate crashes OpenCV's font
    lines = _wrapped(text, measure, width)
    label = _paper(len(lines) * LINE + 2 * GAP, width)
    for number, line in enumerate(lines):
        write(label, line, (0, number * LINE + FONT_SIZE))
    return label


def _pen():
    """Returns write(image, text, (x, y of the baseline)) and measure(text), which gives its width in pixels."""
    if hasattr(cv2, "FontFace"):  # OpenCV 5 has a font for almost all scripts
        font, nowhere = cv2.FontFace("uni"), (4096, 4096)
        return (
            lambda image, text, place: cv2.putText(image, text, place, INK, font, FONT_SIZE),
            lambda text: cv2.getTextSize(nowhere, text, (0, 0), font, FONT_SIZE)[2],
        )
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, cv2.getFontScaleFromHeight(cv2.FONT_HERSHEY_SIMPLEX, FONT_SIZE * 2 // 3)
    return (
        lambda image, text, place: cv2.putText(image, _ascii(text), place, font, scale, INK, 1, cv2.LINE_AA),
        lambda text: cv2.getTextSize(_ascii(text), font, scale, 1)[0][0],
    )


def _ascii(text: str) -> str:
    """Replaces accented letters by plain ones and other scripts by ?, because OpenCV 4 draws only ASCII."""
    return "".join(
        letter if letter.isascii() else "?"
        for letter in unicodedata.normalize("NFKD", text)
        if letter.isprintable() and not unicodedata.combining(letter)
    )


def _wrapped(text: str, measure, width: int) -> list[str]:
    """Wraps text into lines up to `width` pixels wide; breaks wider words, so scripts without spaces wrap, too."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if measure(joined) <= width:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if measure(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, np.uint8)
