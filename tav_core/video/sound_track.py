"""Writes sound into a video file, beside its pictures."""

from fractions import Fraction

from av import AudioFrame
from av.container import OutputContainer
from torch import Tensor

from .sound import Sound

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)


class SoundTrack:
    """An AAC stream that is written as far as the pictures have come, so that a player finds both in one place.

    A rate that AAC does not have becomes 48 kHz. Of channels for which there is no usual layout, the first two are
    written. What is not finite is silent, and what is louder than 1 is clipped.
    """

    def __init__(self, container: OutputContainer, sound: Sound):
        self.container, self.sound, self.written = container, sound, 0
        channels = sound.samples.shape[0]
        self.layout = LAYOUTS.get(channels, "stereo")
        rate = sound.rate if sound.rate in AAC_RATES else 48000
        self.stream = container.add_stream("aac", rate=rate, layout=self.layout)

    def write_until(self, moment: float) -> None:
        """Writes what is heard before a moment, in seconds, and has not been written."""
        end = min(round(moment * self.sound.rate), self.sound.samples.shape[1])
        if end > self.written:
            frame = self._frame(self.sound.samples[:, self.written : end])
            self.container.mux(self.stream.encode(frame))
            self.written = end

    def close(self) -> None:
        self.container.mux(self.stream.encode(None))

    def _frame(self, samples: Tensor) -> AudioFrame:
        kept = samples if len(samples) in LAYOUTS else samples[:2]
        loud = kept.nan_to_num(0.0, 1.0, -1.0).clamp(-1, 1).contiguous().numpy()
        frame = AudioFrame.from_ndarray(loud, format="fltp", layout=self.layout)
        frame.sample_rate, frame.pts, frame.time_base = self.sound.rate, self.written, Fraction(1, self.sound.rate)
        return frame
