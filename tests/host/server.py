"""A real ComfyUI server of our own: on a free port, in a folder of its own, with this pack in custom_nodes."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

PACK = Path(__file__).parents[2]
FOLDERS = ("custom_nodes", "input", "output", "temp", "user", "models/checkpoints", "models/loras", "models/controlnet")


def _end_with_parent() -> None:
    """Lets the kernel end a server whose tests were killed before they could."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Server:
    """`base` holds all that the server reads and writes. Use as a context; `log` is what the server said, all of it.

    options: further ones of ComfyUI's command line; environment: further variables; both for the next start.
    """

    def __init__(self, comfyui: Path, base: Path):
        self.comfyui, self.base, self.process = comfyui, base, None
        self.options: list[str] = []
        self.environment: dict[str, str] = {}
        self.log_file = base / "server.log"
        for folder in FOLDERS:
            (base / folder).mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (base / "custom_nodes" / "tune-a-video").symlink_to(PACK, target_is_directory=True)

    def start(self) -> "Server":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = [
            *("--cpu", "--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(self.base)),
            *("--preview-method", "latent2rgb", "--database-url", "sqlite:///:memory:"),
            *("--disable-api-nodes", "--disable-auto-launch"),
            *self.options,
        ]
        # What the server lets go, glibc gives back at once, so that the memory held is the memory needed.
        glibc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        environment = os.environ | glibc | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"} | self.environment
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(self.comfyui / "main.py"), *options],
                cwd=self.base,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def _wait_until_up(self, patience: float = 180) -> None:
        end = time.monotonic() + patience
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(f"{self.address}/system_stats", timeout=10).close()
                return
            time.sleep(0.1)
        raise RuntimeError(f"ComfyUI did not come up within {patience} s:\n{self.log[-8000:]}")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def resident(self) -> int:
        """Bytes of memory that the server holds."""
        return psutil.Process(self.process.pid).memory_info().rss

    def files(self) -> set[str]:
        """All that lies in `base`, relative to it, but for the log, this pack, and what the host keeps for itself."""
        folders = (folder for folder in self.base.iterdir() if folder.name not in ("custom_nodes", "user", "temp"))
        found = (path for folder in folders for path in (folder, *folder.rglob("*")))
        return {path.relative_to(self.base).as_posix() for path in found if path.is_file()} - {self.log_file.name}

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """As a power cut would end it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def stop(self) -> None:
        if not self.alive():
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()
