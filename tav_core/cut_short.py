"""Whether a video file ends before its container says it does."""

from pathlib import Path

MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"styp", b"sidx", b"free", b"skip", b"wide", b"uuid"}


def is_cut_short(path: Path) -> bool:
    """Whether the file ends before its outermost element does, which FFmpeg often takes for the end of the video."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
        if head.startswith(b"GIF8"):
            file.seek(max(size - 64, 0))
            return not file.read().rstrip(b"\0\r\n").endswith(b";")
        if head.startswith(b"\x1a\x45\xdf\xa3"):  # Matroska: one segment; leading zeros of its length count its bytes
            place = head.find(b"\x18\x53\x80\x67") + 4
            width = 9 - head[place].bit_length()
            length = int.from_bytes(head[place : place + width], "big") - (1 << 7 * width)
            unknown = (1 << 7 * width) - 1  # a live recording
            return length != unknown and place + width + length > size
        place, box = 0, head
        while box[4:8] in MP4_BOXES:
            length = int.from_bytes(box[:4], "big")
            length = int.from_bytes(box[8:16], "big") if length == 1 else length or size - place  # 0: to the end
            place += max(length, 8)
            file.seek(place)
            box = file.read(16)
        return place > size
