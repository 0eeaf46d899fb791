"""The sound of a clip's chosen frames, as an AUDIO of the host."""

from ...tav_core.video.sound import read_sound
from ...tav_core.video.source import FrameSource
from .clips import Frames, Trimmed


def sound_of(source: FrameSource, start: float, seconds: float) -> dict | None:
    """The sound of an open clip from `start` on, in seconds of the source; None if there is no sound."""
    if isinstance(source, Frames):
        return _cut(source.audio, start, seconds) if source.audio else None
    path = getattr(source.video if isinstance(source, Trimmed) else source, "path", None)
    sound = read_sound(path, start, seconds) if path else None
    return sound and {"waveform": sound.samples[None], "sample_rate": sound.rate}


def _cut(audio: dict, start: float, seconds: float) -> dict | None:
    first, last = (round(audio["sample_rate"] * moment) for moment in (start, start + seconds))
    samples = audio["waveform"][..., first:last]
    return {**audio, "waveform": samples} if samples.shape[-1] else None
