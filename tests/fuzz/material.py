"""Intact inputs to mutate, each made once in a process."""

import io
import json
import shutil
import tempfile
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save

from tav_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from tav_core.demo.miniature import MINIATURE, SKS_LORA
from tav_core.inflate import InflatedUNet, inflate
from tests import clips
from tests.networks import tiny_unet
from tests.original_folder import write_original
from tests.random_checkpoint import write_random_checkpoint

FORMATS = {
    "mp4": ("libx264", "yuv420p"),
    "mkv": ("ffv1", "yuv420p"),
    "webm": ("libvpx-vp9", "yuva420p"),
    "avi": ("mjpeg", "yuvj420p"),
    "mov": ("mpeg4", "yuv420p"),
    "flv": ("flv", "yuv420p"),
    "ts": ("libx264", "yuv420p"),
    "gif": ("gif", "rgb8"),
}
"""By suffix: FFmpeg's codec and pixel format."""
SOUNDS = {"mp4": "aac", "mkv": "flac", "avi": "pcm_s16le", "mov": "pcm_s16be", "flv": "aac", "ts": "mp2"}
"""By suffix: FFmpeg's codec of the sound."""
BOXES = (b"moov", b"trak", b"tkhd", b"mdhd", b"elst", b"stsd", b"stts", b"ctts", b"stsz", b"stco", b"avc1", b"pasp")
PICTURES = {"png": {}, "jpg": {"format": "JPEG"}, "webp": {}, "bmp": {}, "tiff": {}}


@cache
def clip(suffix: str) -> bytes:
    """A clip of 6 frames of 64 x 48, bit for bit the same in each process."""
    codec, pix_fmt = FORMATS[suffix]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"clip.{suffix}")
        with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream(codec, rate=24, options={"flags": "+bitexact", "threads": "1"})
            stream.height, stream.width, stream.pix_fmt = 48, 64, pix_fmt
            for image in clips.numbered(6):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
            container.mux(stream.encode(None))
        return path.read_bytes()


@cache
def sounding(suffix: str) -> bytes:
    """A clip of a quarter of a second that is heard as well."""
    codec, pix_fmt = FORMATS[suffix]
    samples = (8000 * np.sin(np.arange(11025) / 10)).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"clip.{suffix}")
        with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
            options = {"options": {"flags": "+bitexact", "threads": "1"}}
            video = container.add_stream(codec, rate=24, **options)
            video.height, video.width, video.pix_fmt = 48, 64, pix_fmt
            audio = container.add_stream(SOUNDS[suffix], rate=44100, layout="stereo", **options)
            for image in clips.numbered(6):
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
            sound = av.AudioFrame.from_ndarray(samples.repeat(2)[None], format="s16", layout="stereo")
            sound.sample_rate, sound.pts, sound.time_base = 44100, 0, Fraction(1, 44100)
            for stream, last in ((video, None), (audio, sound), (audio, None)):
                container.mux(stream.encode(last))
        return path.read_bytes()


@cache
def webp() -> bytes:
    """An animation, as ComfyUI's own node writes it."""
    frames = [Image.fromarray(np.ascontiguousarray(image)) for image in clips.numbered(6)]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], duration=80)
    return file.getvalue()


@cache
def picture(suffix: str, width: int = 64, height: int = 48) -> bytes:
    """An image that is turned by its EXIF data where the format has any."""
    file, image = io.BytesIO(), Image.fromarray(clips.colours(width, height))
    exif = Image.Exif()
    exif[0x0112] = 1
    kind = PICTURES[suffix].get("format", suffix.upper())
    image.save(file, kind, **({} if suffix == "bmp" else {"exif": exif}))
    return file.getvalue()


@cache
def single_file() -> bytes:
    """A checkpoint in Stable Diffusion's own layout."""
    with tempfile.TemporaryDirectory() as folder:
        write_random_checkpoint(Path(folder, "sd.safetensors"), size="tiny")
        return Path(folder, "sd.safetensors").read_bytes()


@cache
def miniature() -> Checkpoint:
    return load_checkpoint(MINIATURE)


@cache
def original() -> Path:
    """A result of the original, in a folder that stays as long as this process."""
    folder = Path(tempfile.mkdtemp(), "original")
    return write_original(folder, MINIATURE)


def copied(folder: Path, to: Path) -> Path:
    """A copy of a folder in which files can be replaced, but not written into: they are links."""
    return Path(shutil.copytree(folder, to, copy_function=lambda source, target: Path(target).hardlink_to(source)))


def replaced(file: Path, data: bytes | str) -> None:
    """Writes a file anew, since it may be a link."""
    file.unlink(missing_ok=True)
    file.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))


@cache
def inflated() -> InflatedUNet:
    return inflate(tiny_unet())


@cache
def tuned() -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and metadata of tuned weights for `inflated`."""
    parameters = inflated().trainable_parameters()
    tensors = {name: torch.full_like(parameter.detach(), 0.01) for name, parameter in parameters.items()}
    metadata = {
        "attention": "sparse-causal", "group_norm": "video", "temporal": True, "family": None, "checkpoint": "sd.ckpt",
        "base_fingerprint": "0" * 64, "prediction_type": "epsilon", "prompt": "a man", "clip": "man.mp4", "frames": 4,
        "size": [64, 48], "start": 0, "stride": 1, "fit": "crop", "fps": 8.0, "posterior": False, "steps": 3,
        "loras": [{"file": "a.safetensors", "strength": 0.8}], "config": {"num_steps": 3, "learning_rate": 3e-5},
        "controls": [{"kind": "controlnet", "network": "pose", "pictures": "pose.mp4", "strength": 1.0}],
        "final_loss": 0.1, "run": "0" * 64, "version": "0.1.0", "unknown": {"a": [1, 2]},
    }  # fmt: skip
    return tensors, metadata


@cache
def lora() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors in kohya's style, for the miniature, and the header that diffusers writes."""
    settings = {"unet.lora_alpha": 4, "unet.r": 4, "unet.alpha_pattern": {}, "text_encoder.lora_alpha": 4}
    return load_file(SKS_LORA), {"format": "pt", "lora_adapter_metadata": json.dumps(settings)}


def safetensors(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    return in_order(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def in_order(data: bytes) -> bytes:
    """A .safetensors file with its header in alphabetical order; safetensors shuffles the metadata."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + length :]
