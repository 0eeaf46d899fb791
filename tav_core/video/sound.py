"""Reads the sound that belongs to frames of a video file."""

from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from torch import Tensor

from .containers import opened


class Sound(NamedTuple):
    """Samples (channels, n), float32 in -1..1, and how many there are in a second."""

    samples: Tensor
    rate: int


def read_sound(path: Path, start: float, seconds: float) -> Sound | None:
    """The sound of a file from `start` on, in seconds as the file counts them, for at most `seconds`.

    None for a file without sound there, or whose sound cannot be decoded.
    """
    try:
        with opened(path) as container:
            stream = container.streams.audio[0]
            if start > 0:  # before that, there is nothing to skip
                container.seek(int(start / stream.time_base), stream=stream)
            return _decoded(container, stream, start, seconds)
    except (FFmpegError, IndexError, ValueError):  # the last two are PyAV's own, where streams or times make no sense
        return None


def _decoded(container: InputContainer, stream: AudioStream, start: float, seconds: float) -> Sound | None:
    planar, chunks, first = av.AudioResampler(format="fltp"), [], None
    for frame in container.decode(stream):
        if frame.time is None or frame.time + frame.samples / frame.sample_rate <= start:
            continue
        if frame.time >= start + seconds:
            break
        first = frame.time if first is None else first
        chunks += [each.to_ndarray() for each in planar.resample(frame)]
    if not chunks:
        return None
    rate, samples = stream.rate, np.concatenate(chunks, axis=1)
    skipped = round((start - first) * rate)
    samples = samples[:, skipped:] if skipped > 0 else np.pad(samples, ((0, 0), (-skipped, 0)))
    return Sound(torch.from_numpy(samples[:, : round(seconds * rate)].copy()), rate)
