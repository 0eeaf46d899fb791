"""Reads the sound that belongs to frames of a video file."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from torch import Tensor

from .containers import opened

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
USUAL_RATE = 48000
LONGEST = 600.0  # seconds: 230 MB
BEFORE = 0.2  # seconds: so much is decoded before the start, since a codec's blocks overlap
GAP = 0.01  # seconds: where a frame is farther than that from the end of the one before, something is missing


class Sound(NamedTuple):
    """Samples (1 or 2 channels, n), float32, about -1..1, and how many there are in a second, one of AAC_RATES."""

    samples: Tensor
    rate: int


def read_sound(path: Path, start: float, seconds: float) -> Sound | None:
    """The sound of a file from `start` on, in seconds as the file counts them, for at most `seconds` and ten minutes.

    More than two channels are mixed to two, and a rate that AAC does not have becomes 48 kHz. What cannot be decoded
    is silent. None for a file without sound there, or with none that can be decoded.
    """
    try:
        with opened(path) as container:
            stream = next(iter(container.streams.audio), None)
            if stream is None or stream.codec_context is None:
                return None
            if start > BEFORE:
                container.seek(int((start - BEFORE) / stream.time_base), stream=stream)
            return _heard(_frames(container, stream), start, min(seconds, LONGEST))
    except (FFmpegError, ValueError, ArithmeticError):  # the last two where layouts or times make no sense
        return None


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    """The frames of a stream that can be decoded and say when they are heard."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except FFmpegError:
            continue
        yield from (frame for frame in frames if frame.time is not None and frame.sample_rate)


def _heard(frames: Iterator[AudioFrame], start: float, seconds: float) -> Sound | None:
    taken = None
    for frame in frames:
        if frame.time >= start + seconds:
            break
        if frame.time + frame.samples / frame.sample_rate > start:
            taken = taken or _Track(frame, start, seconds)
            taken.add(frame)
    return taken.sound() if taken else None


class _Track:
    """Puts the samples of frames where their times say, in the layout and at the rate of the first."""

    def __init__(self, first: AudioFrame, start: float, seconds: float):
        self.start = start
        self.rate = first.sample_rate if first.sample_rate in AAC_RATES else USUAL_RATE
        channels = min(first.layout.nb_channels, 2)
        self.layout = "stereo" if channels == 2 else "mono"
        self.samples = np.zeros((channels, round(seconds * self.rate)), np.float32)
        self.place = self.end = 0
        self.kind, self.resampler = None, None

    def add(self, frame: AudioFrame) -> None:
        due = round((frame.time - self.start) * self.rate)
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        if kind != self.kind or abs(due - self.place) > GAP * self.rate:
            self._put(None)
            self.kind, self.place = kind, due
            self.resampler = av.AudioResampler(format="fltp", layout=self.layout, rate=self.rate)
        self._put(frame)

    def _put(self, frame: AudioFrame | None) -> None:
        """Puts a frame after what is there; None puts what the resampler has held back."""
        for part in self.resampler.resample(frame) if self.resampler else ():
            samples = part.to_ndarray()
            first, last = max(self.place, 0), min(self.place + samples.shape[1], self.samples.shape[1])
            if first < last:
                self.samples[:, first:last] = samples[:, first - self.place : last - self.place]
                self.end = max(self.end, last)
            self.place += samples.shape[1]

    def sound(self) -> Sound | None:
        self._put(None)
        samples = np.nan_to_num(self.samples[:, : self.end], copy=False, nan=0.0, posinf=1.0, neginf=-1.0)
        return Sound(torch.from_numpy(np.ascontiguousarray(samples)), self.rate) if self.end else None
