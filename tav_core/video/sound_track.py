"""Writes sound into a video file, beside its pictures."""

from fractions import Fraction

from av import AudioFrame
from av.container import OutputContainer

from ..errors import need
from .sound import AAC_RATES, Sound


def check_sound(sound: Sound) -> None:
    """Raises TavError for other channels and rates than a `Sound` has."""
    need(len(sound.samples) in (1, 2), "The channels of the sound", len(sound.samples), "1 or 2")
    need(sound.rate in AAC_RATES, "The rate of the sound", sound.rate, f"one of {', '.join(map(str, AAC_RATES))}")


class SoundTrack:
    """An AAC stream that is written as far as the pictures have come, so that a player finds both in one place.

    What is louder than 1 is clipped, and what is not finite is silent.
    """

    def __init__(self, container: OutputContainer, sound: Sound):
        self.container, self.sound, self.written = container, sound, 0
        self.layout = "mono" if len(sound.samples) == 1 else "stereo"
        self.stream = container.add_stream("aac", rate=sound.rate, layout=self.layout)

    def write_until(self, moment: float) -> None:
        """Writes what is heard before a moment, in seconds, and has not been written."""
        end = min(round(moment * self.sound.rate), self.sound.samples.shape[1])
        if end > self.written:
            samples = self.sound.samples[:, self.written : end].nan_to_num(0.0).clamp(-1, 1)
            frame = AudioFrame.from_ndarray(samples.contiguous().numpy(), format="fltp", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.sound.rate, self.written, Fraction(1, self.sound.rate)
            self.container.mux(self.stream.encode(frame))
            self.written = end

    def close(self) -> None:
        self.container.mux(self.stream.encode(None))
