"""What FFmpeg may open: files that hold a video or an image, never lists that name others.

A playlist (HLS, DASH, concat, SDP) makes FFmpeg read other files or addresses, whatever its own name ends in.
"""

import os
import stat
from pathlib import Path

import av
from av.container import InputContainer

from ..errors import TavError

VIDEOS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,flv,live_flv,ogg,asf,mxf,nut,wtv,rm,dv,gxf,"
    "h264,hevc,vvc,m4v,av1,obu,ivf,mjpeg,mjpeg_2000,yuv4mpegpipe,rawvideo,h261,h263,vc1,dnxhd,swf,lxf,mv,amv,avs,webp_anim"
)
ANIMATION = 0x02  # a flag of WebP's VP8X chunk
IMAGES = "png_pipe,jpeg_pipe,jpegls_pipe,webp_pipe,bmp_pipe,tiff_pipe,gif_pipe,gif,apng"


def only(formats: str) -> dict[str, str]:
    """The `container_options` of `av.open` that allow only these formats (FFmpeg's names), and local files.

    Never as its `options`: PyAV 14 writes those past the end of its list if a stream shows up late (mpg, flv).
    """
    return {"format_whitelist": formats, "protocol_whitelist": "file"}


def opened(path: Path, formats: str = VIDEOS) -> InputContainer:
    """Opens a file of one of these formats. Raises what PyAV raises."""
    return av.open(address_of(path), metadata_errors="replace", container_options=only(formats))


def address_of(path: str | os.PathLike) -> str:
    """How FFmpeg is told of a path: absolute, since it takes what precedes a colon in a relative one for a protocol."""
    return os.path.abspath(path)


def ensure_regular(path: Path) -> None:
    """Raises TavError for what is neither a file nor a folder: reading a pipe or a device would wait, or never end."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise TavError(f"{path} is neither a file nor a folder; give a video file or a folder of images.")


def is_animated_webp(path: Path) -> bool:
    """Whether a file is a WebP of several frames, which FFmpeg cannot decode."""
    with path.open("rb") as file:
        head = file.read(21)
    is_extended = len(head) == 21 and head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X"
    return is_extended and bool(head[20] & ANIMATION)
