"""The sound of a clip's chosen frames, as an AUDIO of the host."""

from ...tav_core.video.sound import has_sound, read_sound
from ...tav_core.video.source import FrameSource
from .clips import Frames, Trimmed


def sound_of(source: FrameSource, first: int, seconds: float) -> dict | None:
    """The sound of an open clip from frame number `first` on; None if there is no sound."""
    if isinstance(source, Frames):
        return _cut(source.audio, first / source.fps, seconds) if source.audio else None
    video, number = (source.video, source.kept[first]) if isinstance(source, Trimmed) else (source, first)
    path, moment = getattr(video, "path", None), video.moments[number]
    if not (path and has_sound(path)):
        return None
    sound = read_sound(path, number / video.fps if moment is None else moment, seconds)
    return sound and {"waveform": sound.samples[None], "sample_rate": sound.rate}


def _cut(audio: dict, start: float, seconds: float) -> dict | None:
    first, last = (round(audio["sample_rate"] * moment) for moment in (start, start + seconds))
    samples = audio["waveform"][..., first:last]
    return {**audio, "waveform": samples} if samples.shape[-1] else None
