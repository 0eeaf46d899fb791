"""How a thing goes on, by where it was so far."""

from collections.abc import Sequence

import numpy as np

RATES = np.arange(0.1, 1.3, 0.05)
"""How fast something may circle or swing, in radians a frame."""
SIGMA, SIGMA_UNLIKE = 0.25 / 128, 10 / 128
"""The standard deviation of where a thing was found, as a share of the frame's side: of one that looks the same there,
and what is added for each share of its contrast by which it does not."""
LEFT, SURE = 1 / 3, 15.0
"""The share of a simpler movement's squared errors, in standard deviations, that a more complex one may leave, and by
how much it must lower them, to be preferred."""


class Movement:
    """A thing's speed, its acceleration if its path shows one, or how it circles or swings, if that fits far better.

    ago: how many frames ago it was seen, from 1. ways: (2,), x and y in pixels, how far it was then from where it is
    now. errors: how different it looked, as shares of its contrast. side: of the frame, in pixels.
    """

    def __init__(self, ago: Sequence[int], ways: Sequence[np.ndarray], errors: Sequence[float], side: int):
        times, path = -np.array(ago, float), np.stack(ways)
        certain = 1 / (side * (SIGMA + SIGMA_UNLIKE * np.array(errors)))

        def fitted(rate: float | None) -> tuple[float, np.ndarray]:
            terms = _terms(times, rate)
            weights = np.linalg.lstsq(terms * certain[:, None], path * certain[:, None], rcond=None)[0]
            return float(np.square((terms @ weights - path) * certain[:, None]).sum()), weights

        self.rate, (error, self.weights) = None, fitted(None)
        for rates, needed in (((0.0,), 3), (RATES, 5)):
            if len(ways) < needed:
                break
            rate = min(rates, key=lambda rate: fitted(rate)[0])
            lower, weights = fitted(rate)
            if lower < LEFT * error and error - lower > SURE:
                self.rate, error, self.weights = rate, lower, weights

    @property
    def speed(self) -> np.ndarray:
        """Now, x and y in pixels a frame."""
        return self.weights[0]

    def at(self, time: float) -> np.ndarray:
        """How far it will be in so many frames, x and y in pixels."""
        return (_terms(np.array([time], float), self.rate) @ self.weights)[0]


def _terms(times: np.ndarray, rate: float | None) -> np.ndarray:
    """What speed, and acceleration or turning, contribute at each time, (f, 1 or 2): a circle or swing about a middle
    at a rate in radians a frame; 0 is its limit, a parabola; None a straight line."""
    if rate is None:
        return times[:, None]
    if not rate:
        return np.stack([times, times**2 / 2], axis=1)
    return np.stack([np.sin(rate * times) / rate, (1 - np.cos(rate * times)) / rate**2], axis=1)
