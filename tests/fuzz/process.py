"""A worker from outside: hands it cases, and tells apart one that hangs, one that dies and one that is slow."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

LIBRARY = ("tests.fuzz.pictures", "tests.fuzz.texts", "tests.fuzz.own_files", "tests.fuzz.networks")
HOST = ("tests.fuzz.nodes",)
"""The modules with the readers of tav_core, and those that need a ComfyUI."""
STARTING = 300


class Process:
    """Runs cases in a worker process, and starts a new one only after one had to be killed, or died.

    modules: with the readers. patience: seconds of computing, or of waiting for nothing, after which a case hangs.
    readers: their names.
    """

    def __init__(self, modules: tuple[str, ...] = LIBRARY, patience: float = 20.0):
        self.modules, self.patience = modules, patience
        self.folder, self.process, self.readers = tempfile.mkdtemp(prefix="fuzz-"), None, []

    def __enter__(self) -> "Process":
        self._start()
        return self

    def __exit__(self, *_) -> None:
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def fault_in(self, reader: str, seed: str) -> str | None:
        """What is wrong with a case; None if nothing is."""
        self._start()
        self.process.stdin.write(f"{reader} {seed}\n".encode())
        self.process.stdin.flush()
        answer = self._answer(self.patience)
        if answer is None:
            return self._hung()
        if not answer:
            self.process.wait()
            died, self.process = -self.process.returncode, None
            name = signal.Signals(died).name if died > 0 else f"status {-died}"
            return f"died of {name}: {self._last_words()}"
        return json.loads(answer)

    def _start(self) -> None:
        if self.process is not None:
            return
        environment = os.environ | {"TMPDIR": self.folder, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker", *self.modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                cwd=Path(__file__).parents[2],
            )
        if not (answer := self._answer(STARTING)):
            raise RuntimeError(f"The worker does not start: {self._last_words()}")
        self.readers = json.loads(answer)

    @property
    def _errors(self) -> Path:
        return Path(self.folder, "errors.txt")

    def _answer(self, patience: float) -> bytes | None:
        """The worker's line, b"" if it died, None if it hangs: it has computed, or waited for nothing, for too long.

        On a busy machine a case may take far longer by the clock.
        """
        began, busy = time.monotonic(), self._computed()
        while not select.select([self.process.stdout], [], [], 0.2)[0]:
            waited, computed = time.monotonic() - began, self._computed() - busy
            if computed > patience or (waited > patience and computed < 0.05 * patience) or waited > 15 * patience:
                return None
        return self.process.stdout.readline()

    def _computed(self) -> float:
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return times.user + times.system

    def _hung(self) -> str:
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        root = f"{Path(__file__).parents[2]}/"
        lines = [line.strip() for line in self._errors.read_text(errors="replace").splitlines() if root in line]
        self._end()
        return f"hangs: {lines[0].replace(root, '') if lines else 'in a library'}"

    def _last_words(self) -> str:
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])[:300] or "no word"

    def _end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
