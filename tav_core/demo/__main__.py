"""`make demo`: tunes and edits a drawn clip with a random checkpoint, through the same commands that people use."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from ..video import write_video
from .random_checkpoint import write_random_checkpoint

OUTPUT = Path("demo-output")


def draw_clip(num_frames: int = 8, size: int = 64) -> torch.Tensor:
    """A red ball on an arc over grass: (f, h, w, 3), 0..1."""
    frames = []
    for time in np.linspace(0, 1, num_frames):
        frame = np.full((size, size, 3), (0.35, 0.65, 0.25), np.float32)
        cv2.rectangle(frame, (0, 0), (size, size // 2), (0.55, 0.8, 1.0), -1)
        centre = (0.15 + 0.7 * time) * size, (0.7 - 1.6 * time * (1 - time)) * size
        cv2.circle(frame, [round(16 * x) for x in centre], round(16 * size / 9), (0.9, 0.1, 0.1), -1, cv2.LINE_AA, 4)
        frames.append(frame)
    return torch.from_numpy(np.stack(frames))


def tav(*arguments: object) -> None:
    command = [sys.executable, "-m", "tav_core.cli", *map(str, arguments)]
    print("\n$ tav " + subprocess.list2cmdline(command[3:]), flush=True)
    subprocess.run(command, check=True)


def main() -> None:
    print(
        "There is no trained miniature checkpoint yet: this demo runs on seeded random weights, so it shows that every"
    )
    print("step works, and its pictures mean nothing.")
    OUTPUT.mkdir(exist_ok=True)
    clip, checkpoint, weights = OUTPUT / "clip.mp4", OUTPUT / "random.safetensors", OUTPUT / "tuned.safetensors"
    write_video(clip, draw_clip(), fps=8)
    if not checkpoint.exists():
        write_random_checkpoint(checkpoint, seed=0, size="tiny")
    shared = ("--checkpoint", checkpoint)
    size = ("--frames", 8, "--size", 64)
    prompt = ("--prompt", "a red ball is flying over the grass")
    tav("tune", clip, *prompt, *shared, *size, "--steps", 20, "--learning-rate", "1e-3", "-o", weights, "--force")
    edits = [word for edit in ("a blue ball", "a red box on the snow") for word in ("--prompt", edit)]
    tav("edit", clip, "--weights", weights, *shared, *edits, "--steps", 20, "--inversion-steps", 20, "-o", OUTPUT)
    print(f"\nLook at {OUTPUT / 'sheet.png'}; the videos and manifest.json lie beside it.")


if __name__ == "__main__":
    main()
