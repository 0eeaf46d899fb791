"""Converts between PyAV's frames and images as displayed: uint8 (h, w, 3), RGB, upright, with square pixels."""

import math
from fractions import Fraction

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Colorspace

from .hdr import needs_mapping, to_bt709

UNSPECIFIED = 2  # H.273's number for an unspecified colour matrix, which swscale shares
# SWS_BICUBIC, SWS_FULL_CHR_H_INT, SWS_FULL_CHR_H_INP and SWS_ACCURATE_RND; swscale's default is up to 3 levels off.
EXACT = 0x4 | 0x2000 | 0x4000 | 0x40000


def rgb(
    frame: av.VideoFrame, pixel_aspect: Fraction | int = 1, transfer: int = UNSPECIFIED, primaries: int = UNSPECIFIED
) -> np.ndarray:
    """Converts a frame to an image with square pixels, on black where transparent, not yet turned upright.

    transfer, primaries: H.273's numbers, which PyAV 14 does not tell of a frame. HDR and wide gamut become BT.709.
    An unspecified colour matrix is guessed as browsers do: BT.709 from 720 lines on, BT.601 below.
    """
    matrix = int(frame.colorspace)
    if matrix == UNSPECIFIED:
        matrix = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    has_alpha = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
    is_mapped = needs_mapping(transfer, primaries)
    kind = ("rgba64le" if is_mapped else "rgba") if has_alpha else ("rgb48le" if is_mapped else "rgb24")
    pixels = frame.reformat(
        width=max(round(frame.width * pixel_aspect), 1),
        format=kind,
        src_colorspace=matrix,
        dst_colorspace=Colorspace.DEFAULT,  # PyAV 14 applies the source's only if this or the range differs
        src_color_range=int(frame.color_range),
        interpolation=EXACT,
    ).to_ndarray()
    image, alpha = pixels[..., :3], pixels[..., 3:]
    if is_mapped:
        image = to_bt709(image, transfer, primaries)
    return on_black(image, alpha / np.iinfo(pixels.dtype).max) if has_alpha else image


def on_black(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Blends an image (h, w, 3) with black; alpha: (h, w, 1) in 0..1."""
    return (image * alpha).round().astype(np.uint8)


def yuv(image: np.ndarray) -> av.VideoFrame:
    """Converts an image to a yuv420p frame in BT.709, limited range."""
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, interpolation=EXACT)


def display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """The matrix (a, b, c, d) by which a frame is displayed: x' = a x + c y and y' = b x + d y.

    Call this once per video: in PyAV, reading side data puts the frame into a reference cycle, which holds its memory
    until Python's gc runs.
    """
    try:
        matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    except ValueError:  # the frame also has side data that PyAV does not know (EXIF in PyAV 18)
        return turned_by(frame.rotation)
    if matrix is None:
        return turned_by(0)
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    return a, b, c, d


def turned_by(degrees: int) -> tuple[int, int, int, int]:
    """The display matrix of a counterclockwise rotation."""
    cos, sin = round(math.cos(math.radians(degrees))), round(math.sin(math.radians(degrees)))
    return cos, -sin, sin, cos


def upright(image: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Rotates an image by quarter turns and mirrors it, as given by its display matrix."""
    a, b, c, d = matrix
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def fitted(image: np.ndarray, width: int, height: int, fit: str) -> np.ndarray:
    """Resizes an image (h, w, 3) to (height, width, 3) by one of FITS."""
    full_height, full_width = image.shape[:2]
    inner = width, height
    if fit == "crop":
        scale = max(width / full_width, height / full_height)
        crop_width, crop_height = max(round(width / scale), 1), max(round(height / scale), 1)
        left, top = (full_width - crop_width) // 2, (full_height - crop_height) // 2
        image = image[top : top + crop_height, left : left + crop_width]
    if fit == "pad":
        scale = min(width / full_width, height / full_height)
        inner = max(round(full_width * scale), 1), max(round(full_height * scale), 1)
    shrinks = inner[0] < image.shape[1] or inner[1] < image.shape[0]
    resized = cv2.resize(image, inner, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    borders = top, height - inner[1] - top, left, width - inner[0] - left
    return cv2.copyMakeBorder(resized, *borders, cv2.BORDER_CONSTANT, value=(0, 0, 0))
