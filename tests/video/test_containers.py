"""What may be opened as a clip, and what never is."""

import contextlib
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from tav_core import TavError, read_frames, write_video
from tests.clips import encode, numbered

CASES = Path(os.environ.get("TAV_SHARED", Path(__file__).parents[3] / "shared")) / "cases"
SIZE = 64


@pytest.fixture
def secret(tmp_path):
    """A video elsewhere on the disk."""
    (tmp_path / "elsewhere").mkdir()
    return encode(tmp_path / "elsewhere" / "secret.ts", numbered(4), fps=8)


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "list.ts", "list.txt", "list.gif"])
@pytest.mark.parametrize("by", ["absolute path", "path above", "address"])
def test_a_playlist_never_leads_to_another_file(tmp_path, secret, name, by):
    named = {"absolute path": str(secret), "path above": "../elsewhere/secret.ts", "address": f"file://{secret}"}[by]
    path = tmp_path / "input" / name
    path.parent.mkdir()
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\n{named}\n#EXT-X-ENDLIST\n")
    with pytest.raises(TavError, match="is not a video"):
        read_frames(path, 1, size=SIZE)


@pytest.mark.parametrize("kind", ["ffconcat version 1.0\nfile '{}'\n", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\n"])
def test_no_other_list_does_either(tmp_path, secret, kind):
    path = tmp_path / "list.mp4"
    path.write_text(kind.format(secret))
    with pytest.raises(TavError, match="is not a video"):
        read_frames(path, 1, size=SIZE)


def test_a_playlist_among_images_is_no_image(tmp_path, secret):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "1.png").write_text(f"#EXTM3U\n#EXTINF:0.5,\n{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(TavError, match="cannot be read as an image"):
        read_frames(folder, 1, size=SIZE)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such names")
@pytest.mark.parametrize("name", ["12:30 skiing.mp4", "concat:clip.mp4", "http:clip.mp4", "frame%03d.mp4"])
def test_a_name_is_never_an_address(tmp_path, monkeypatch, name):
    encode(tmp_path / "plain.mp4", numbered(4), fps=8)
    shutil.move(tmp_path / "plain.mp4", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    frames = read_frames(Path(name), 4, size=SIZE).frames
    assert len(frames) == 4
    write_video(Path("edits:v2", name), frames, 8)
    assert len(read_frames(Path("edits:v2", name), 4, size=SIZE).frames) == 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in the file system are of POSIX systems")
def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "clip.mp4")
    images = tmp_path / "images"
    images.mkdir()
    os.mkfifo(images / "1.png")
    for path in (tmp_path / "clip.mp4", images, Path("/dev/zero")):
        failed = []

        def read(path=path, failed=failed):
            try:
                read_frames(path, 1, size=SIZE)
            except TavError as error:
                failed.append(str(error))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(10)
        assert failed, f"{path} is still being read"


def test_numbers_are_only_those_of_ascii(tmp_path):
    from tav_core.video.image_folder import natural_order

    names = ["²1.png", "frame10.png", "frame2.png", "٣.png"]
    assert sorted(map(Path, names), key=natural_order)[:2] == [Path("frame2.png"), Path("frame10.png")]


@pytest.mark.skipif(not CASES.exists(), reason=f"{CASES} is not here")
def test_a_damaged_file_that_pyav_trips_over_is_told(tmp_path):
    with pytest.raises(TavError, match=r"is not a video|damaged|no video stream"):
        read_frames(CASES / "h264.flv", 1, size=SIZE)


def test_damage_by_chance_is_told_in_a_sentence(tmp_path):
    """Bytes flipped all over a small file, in each container."""
    rng = np.random.default_rng(0)
    for name in ("a.mp4", "a.mkv", "a.avi", "a.flv", "a.mov", "a.ts"):
        whole = np.frombuffer(encode(tmp_path / name, numbered(4), fps=8).read_bytes(), np.uint8)
        for _ in range(12):
            damaged = whole.copy()
            damaged[rng.integers(len(whole), size=8)] = rng.integers(256, size=8)
            (tmp_path / name).write_bytes(damaged.tobytes())
            with contextlib.suppress(TavError):  # nothing else
                read_frames(tmp_path / name, 2, size=SIZE)
