"""Stops a tuning run that is not tuning."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .errors import TavError

PATIENCE = 20
"""Steps on videos after which every trained tensor must have changed; images do not reach all of them."""


class Watchdog:
    """Checks the loss and gradients of each step, and once whether the weights change at all."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        self.parameters = parameters
        self.updates = self.overflows = 0
        self.at_start = {name: _some_of(p) for name, p in parameters.items()}

    def before_backward(self, step: int, loss: Tensor) -> None:
        """Raises TavError if the loss depends on no trained tensor."""
        if not loss.requires_grad:
            raise self._no_gradient(step, list(self.parameters))

    def before_update(self, step: int, loss: float, grad_norm: float, *, scaled: bool) -> None:
        """Raises TavError for a bad loss or gradient, before it reaches the weights.

        scaled: with a gradient scaler, which skips steps whose gradients overflow until it has found its scale.
        """
        if not math.isfinite(loss):
            raise TavError(
                f"The loss became {loss} at step {step + 1}; the weights from before that step are kept. Lower "
                'learning_rate, or tune with mixed_precision "no" or "bf16".'
            )
        without = [name for name, p in self.parameters.items() if p.grad is None]
        if without:
            raise self._no_gradient(step, without)
        self.overflows = 0 if math.isfinite(grad_norm) else self.overflows + 1
        if self.overflows > (PATIENCE if scaled else 0):
            raise TavError(
                f"The gradients became {grad_norm} at step {step + 1}; the weights from before that step are kept. "
                'Lower learning_rate, or tune with mixed_precision "no".'
            )

    def after_update(self, steps: int, *, on_images: bool = False) -> None:
        """Raises TavError if tensors have not changed after PATIENCE updates; steps: done so far.

        on_images: the step saw no video, but separate images, which does not count.
        """
        if on_images:
            return
        self.updates += 1
        if self.updates != PATIENCE:
            return
        still = [name for name, p in self.parameters.items() if torch.equal(_some_of(p), self.at_start[name])]
        if still:
            raise TavError(
                f"{len(still)} of {len(self.parameters)} trained tensors have not changed by step {steps} "
                f'({_listed(still)}). Raise learning_rate, or tune with mixed_precision "no".'
            )
        self.at_start = {}

    def _no_gradient(self, step: int, names: list[str]) -> TavError:
        return TavError(
            f"{len(names)} of {len(self.parameters)} trained tensors got no gradient at step {step + 1} "
            f"({_listed(names)}), so they would never be trained. Turn gradient checkpointing off, or "
            "make it non-reentrant."
        )


def _some_of(parameter: Tensor) -> Tensor:
    """A copy of up to a few thousand elements spread over a tensor; an update that changes the tensor changes these."""
    flat = parameter.detach().flatten()
    return flat[:: max(1, flat.numel() // 2048)].clone()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
