"""The sound of a clip's chosen frames, as an AUDIO of the host."""

from pathlib import Path

from comfy_api.latest import Input

from ...tav_core.video.decode import VideoFile
from ...tav_core.video.sound import has_sound, read_sound
from .clips import Frames, opened


def sound_of_file(path: Path, first: int, seconds: float) -> dict | None:
    """From frame number `first` on; None if there is no sound."""
    if not has_sound(path):
        return None
    return _from_frame(VideoFile(path), first, seconds)


def sound_of(clip: Input.Video, first: int, seconds: float) -> dict | None:
    """As `sound_of_file`, of a VIDEO within its trim."""
    with opened(clip) as source:
        if not isinstance(source, Frames):
            path = getattr(source.video, "path", None)
            return _from_frame(source.video, source.kept[first], seconds) if path and has_sound(path) else None
    if not (audio := clip.get_components().audio):
        return None
    start, end = (round(audio["sample_rate"] * moment) for moment in (first / source.fps, first / source.fps + seconds))
    samples = audio["waveform"][..., start:end]
    return {**audio, "waveform": samples} if samples.shape[-1] else None


def _from_frame(video: VideoFile, number: int, seconds: float) -> dict | None:
    moment = video.moments[number]
    sound = read_sound(video.path, number / video.fps if moment is None else moment, seconds)
    return sound and {"waveform": sound.samples[None], "sample_rate": sound.rate}
