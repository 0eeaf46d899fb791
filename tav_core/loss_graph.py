"""A graph of a run's losses. Each step draws another timestep, so they jump; a smoothed line shows their trend."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

WIDTH, HEIGHT = 800, 480  # pixels
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 36, 40
PAPER, INK, GRID, RAW, TREND = (255, 255, 255), (40, 40, 40), (226, 226, 226), (158, 196, 232), (196, 64, 24)
MOST_SMOOTHED = 50  # steps


def smoothed(losses: Sequence[float]) -> list[float]:
    """The trend of losses: at each step an average of those until then, which forgets a fifth of a run, or 50 steps.

    An exponential moving average, corrected for having started at nothing as Adam's are.
    """
    keep, average, trend = 1 - 1 / max(1, min(MOST_SMOOTHED, len(losses) / 5)), 0.0, []
    for step, loss in enumerate(losses, 1):
        average = keep * average + (1 - keep) * loss
        trend.append(average / (1 - keep**step))
    return trend


def loss_graph(losses: Sequence[float]) -> Tensor:
    """Draws the loss of every step, and their trend above it: (h, w, 3) in 0..1."""
    import cv2

    image = np.full((HEIGHT, WIDTH, 3), PAPER, np.uint8)
    highest = max(losses) * 1.05 or 1.0

    def place(step: float, loss: float) -> tuple[int, int]:
        x = LEFT + (step - 1) / max(1, len(losses) - 1) * (WIDTH - LEFT - RIGHT)
        return round(x), round(HEIGHT - BOTTOM - loss / highest * (HEIGHT - TOP - BOTTOM))

    def write(text: str, x: int, y: int, colour: tuple = INK) -> None:
        cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)

    for share in (0, 0.25, 0.5, 0.75, 1):
        left, right = place(1, share * highest), place(len(losses), share * highest)
        cv2.line(image, left, (max(right[0], WIDTH - RIGHT), right[1]), GRID, 1)
        write(f"{share * highest:.3f}", 8, left[1] + 5)
    for step in sorted({1, round((1 + len(losses)) / 2), len(losses)}):
        x = place(step, 0)[0]
        write(str(step), min(x, WIDTH - RIGHT - 9 * len(str(step))), HEIGHT - BOTTOM + 20)
    for line, colour, width in ((losses, RAW, 1), (smoothed(losses), TREND, 2)):
        points = np.array([place(step, loss) for step, loss in enumerate(line, 1)])
        cv2.polylines(image, [points], False, colour, width, cv2.LINE_AA)
    write("loss of each step", LEFT, 22, tuple(channel - 50 for channel in RAW))
    write("smoothed", LEFT + 180, 22, TREND)
    return torch.from_numpy(image).float() / 255
