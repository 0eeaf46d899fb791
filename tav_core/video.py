"""Frames in, frames out: videos, GIFs and folders of images become tensors, tensors become mp4 files."""

import math
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple, Protocol

import av
import numpy as np
import torch
from av.error import FFmpegError
from torch import Tensor

from .decode import VideoFile
from .errors import TavError
from .files import atomic_path
from .image_folder import ImageFolder
from .pictures import FITS, fitted, yuv


class Clip(NamedTuple):
    """Frames (f, h, w, 3), float32 in 0..1, and the rate (1/s) that shows the source's motion at its own speed."""

    frames: Tensor
    fps: float


def read_frames(
    path: str | os.PathLike,
    num_frames: int = 24,
    *,
    size: int | tuple[int, int] = 512,
    start: int = 0,
    stride: int = 0,
    fit: str = "crop",
) -> Clip:
    """Reads `num_frames` frames of a video, a GIF or a folder of images.

    Stride 0 spreads the frames uniformly from frame `start` to the last; otherwise every `stride`-th is taken, as in
    the original. Frames are counted as displayed: upright, in time order, edit lists obeyed, at whatever rate.
    A folder is read in natural order (frame2 before frame10) as if at 8 frames a second; its images share one size.

    `size` is a side or (width, height), in multiples of 8. "crop" keeps the aspect and the centre, "pad" keeps the
    aspect and the whole picture, on black, "stretch" keeps neither. Shrinking averages areas (INTER_AREA), enlarging
    is bicubic. Transparency lies on black. A YUV video that does not name its colours is read as browsers do: BT.709
    from 720 lines on, BT.601 below. Raises TavError for every wrong option and every missing or damaged file.
    """
    path = Path(path)
    _check(num_frames, size, start, stride, fit)
    if not path.exists():
        raise TavError(f"There is no file or folder {path}; check the path of the video.")
    source = ImageFolder(path) if path.is_dir() else VideoFile(path)
    return take_frames(source, num_frames, size=size, start=start, stride=stride, fit=fit, name=str(path))


class Pictures(Protocol):
    """A source of pictures: how many, how fast (1/s), and the chosen ones, uint8 (h, w, 3)."""

    num_frames: int
    fps: float

    def pictures(self, chosen: Sequence[int]) -> Iterable[np.ndarray]: ...


def take_frames(
    source: Pictures,
    num_frames: int,
    *,
    size: int | tuple[int, int] = 512,
    start: int = 0,
    stride: int = 0,
    fit: str = "crop",
    name: str = "The clip",
) -> Clip:
    """As `read_frames`, from pictures that are open already; `name` begins the errors."""
    _check(num_frames, size, start, stride, fit)
    width, height = check_size(size)
    try:
        chosen = select_frames(source.num_frames, num_frames, start, stride)
    except TavError as error:
        raise TavError(f"{name}: {error}") from None
    frames = torch.empty(num_frames, height, width, 3)
    for kept, picture in zip(frames, source.pictures(chosen), strict=True):
        kept.copy_(torch.from_numpy(fitted(picture, width, height, fit))).div_(255)
    frames_per_step = (chosen[-1] - chosen[0]) / (num_frames - 1) if num_frames > 1 else 1
    return Clip(frames, source.fps / frames_per_step)


def write_video(path: str | os.PathLike, frames: Tensor, fps: float) -> None:
    """Writes frames (f, h, w, 3), float in 0..1, as an H.264 mp4 that browsers play, whole or not at all.

    yuv420p needs even sides: an odd one repeats its last row or column. Colours are BT.709, limited range, and tagged
    so. Values up to 0.5 outside 0..1 are a decoder's overshoot and are clipped. Raises TavError for anything else
    that is not such frames, an fps outside 0.001..1000, a suffix other than .mp4, and a file that cannot be written.
    """
    path = Path(path)
    _check_writable(path, frames, fps)
    rate = Fraction(float(fps)).limit_denominator(1001)  # finds 30000/1001 in 29.97003
    odd_height, odd_width = frames.shape[1] % 2, frames.shape[2] % 2
    colours = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
    muxing = {"format": "mp4", "options": {"movflags": "+faststart"}}
    try:
        with atomic_path(path) as temporary, av.open(str(temporary), "w", **muxing) as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": "17", **colours})
            stream.width, stream.height = frames.shape[2] + odd_width, frames.shape[1] + odd_height
            stream.pix_fmt = "yuv420p"
            for number, pixels in enumerate(frames):
                picture = (pixels.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()
                picture = np.pad(picture, ((0, odd_height), (0, odd_width), (0, 0)), mode="edge")
                frame = yuv(picture)
                frame.pts, frame.time_base = number, 1 / rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except (OSError, FFmpegError) as error:
        raise TavError(
            f"{path} could not be written ({error.strerror}); choose another place or free space."
        ) from error


def select_frames(total: int, num_frames: int, start: int = 0, stride: int = 0) -> list[int]:
    """The strictly increasing numbers of the chosen frames among 0..total-1; the first is `start`.

    Stride 0: round(linspace(start, total - 1, num_frames)). Otherwise the original's range(start, total, stride), its
    first `num_frames`. Raises TavError where there are fewer frames than asked for.
    """
    _check_selection(num_frames, start, stride)
    if start >= total:
        raise TavError(f"start is {start}, but there are only {total} frames, counted from 0; start earlier.")
    available = range(start, total, stride or 1)
    if num_frames > len(available):
        where = f"from frame {start} on" + (f" with stride {stride}" if stride > 1 else "")
        ways = [f"ask for {len(available)}"] + ["start earlier"] * (start > 0) + ["lower the stride"] * (stride > 1)
        raise TavError(
            f"num_frames is {num_frames}, but {where} only {len(available)} of {total} frames can be taken; "
            f"{' or '.join(ways)}."
        )
    if stride:
        return list(available[:num_frames])
    return np.linspace(start, total - 1, num_frames).round().astype(int).tolist()


def check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Width and height of a side or of both; TavError where the VAE cannot take them."""
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, Integral) for side in sides):
        raise TavError(f"The size is {size!r}, but a whole number or (width, height) is needed; give 512, for example.")
    if any(side < 8 or side % 8 for side in sides):
        got, nearest = ("x".join(map(str, s)) for s in (sides, [max(8, round(side / 8) * 8) for side in sides]))
        raise TavError(f"The size is {got}, but Stable Diffusion's VAE needs multiples of 8; try {nearest}.")
    return sides


def _check(num_frames: int, size, start: int, stride: int, fit: str) -> None:
    check_size(size)
    if fit not in FITS:
        raise TavError(f"The fit is {fit!r}, which is unknown; choose one of {', '.join(FITS)}.")
    _check_selection(num_frames, start, stride)


def _check_selection(num_frames: int, start: int, stride: int) -> None:
    for name, value in (("num_frames", num_frames), ("start", start), ("stride", stride)):
        if not isinstance(value, Integral):
            raise TavError(f"{name} is {value!r}, but frames are counted in whole numbers; give 1, for example.")
    if num_frames < 1:
        raise TavError(f"num_frames is {num_frames}, but a clip needs at least one frame; ask for 1 or more.")
    if start < 0:
        raise TavError(f"start is {start}, but frames are counted from 0; give 0 or more.")
    if stride < 0:
        raise TavError(f"stride is {stride}, but a clip runs forward; give 1 or more, or 0 for uniform frames.")


def _check_writable(path: Path, frames: Tensor, fps: float) -> None:
    if path.suffix.lower() != ".mp4":
        raise TavError(f"The video's name is {path.name!r}, but it will be an mp4; give it the suffix .mp4.")
    if "libx264" not in av.codecs_available:
        raise TavError("This PyAV cannot write H.264, for it lacks libx264; get one that can by: pip install av.")
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape or not frames.is_floating_point():
        raise TavError(
            f"A video needs float frames (f, h, w, 3) in 0..1, got {frames.dtype} {tuple(frames.shape)}; "
            "move the colour last, and divide bytes by 255."
        )
    if not isinstance(fps, Real) or not 0.001 <= fps <= 1000:
        raise TavError(f"The fps is {fps!r}, but a number within 0.001..1000 is needed; give 8, for example.")
    low, high = (bound.item() for bound in frames.detach().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise TavError("The frames hold NaN or infinite values, which no video can show; find the step that made them.")
    if low < -0.5 or high > 1.5:
        raise TavError(f"The frames reach from {low:.3g} to {high:.3g}, but 0..1 is needed; rescale them first.")
