"""Stops a tuning run that is not tuning."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .errors import TavError

PATIENCE = 20
"""Steps after which every trained tensor must have moved."""


class Watchdog:
    """Looks at each step's loss and gradients, and once at whether the weights move at all."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        self.parameters = parameters
        self.updates = self.overflows = 0
        self.at_start = {name: _some_of(p) for name, p in parameters.items()}

    def before_backward(self, step: int, loss: Tensor) -> None:
        """Raises TavError where nothing that is trained took part in the loss."""
        if not loss.requires_grad:
            raise self._no_gradient(step, list(self.parameters))

    def before_update(self, step: int, loss: float, grad_norm: float, *, scaled: bool) -> None:
        """Raises TavError while the weights are still good.

        scaled: a gradient scaler skips steps whose gradients overflow, and may do so until it has found its scale.
        """
        if not math.isfinite(loss):
            raise TavError(
                f"The loss became {loss} at step {step + 1}; the weights from before it are kept. Lower learning_rate, "
                'or tune with mixed_precision "no" or "bf16".'
            )
        without = [name for name, p in self.parameters.items() if p.grad is None]
        if without:
            raise self._no_gradient(step, without)
        self.overflows = 0 if math.isfinite(grad_norm) else self.overflows + 1
        if self.overflows > (PATIENCE if scaled else 0):
            raise TavError(
                f"The gradients became {grad_norm} at step {step + 1}; the weights from before it are kept. Lower "
                'learning_rate, or tune with mixed_precision "no".'
            )

    def after_update(self, steps: int) -> None:
        """Raises TavError where tensors have not moved after PATIENCE updates; steps: done so far."""
        self.updates += 1
        if self.updates != PATIENCE:
            return
        still = [name for name, p in self.parameters.items() if torch.equal(_some_of(p), self.at_start[name])]
        if still:
            raise TavError(
                f"{len(still)} of {len(self.parameters)} trained tensors have not moved in the {PATIENCE} steps up to "
                f'{steps} ({_listed(still)}). Raise learning_rate, or tune with mixed_precision "no".'
            )
        self.at_start = {}

    def _no_gradient(self, step: int, names: list[str]) -> TavError:
        return TavError(
            f"{len(names)} of {len(self.parameters)} trained tensors got no gradient at step {step + 1} "
            f"({_listed(names)}), so they would never learn. Switch gradient checkpointing off, or use a "
            "non-reentrant one."
        )


def _some_of(parameter: Tensor) -> Tensor:
    """A copy of up to a few thousand elements spread over a tensor; an update that moves it moves these."""
    flat = parameter.detach().flatten()
    return flat[:: max(1, flat.numel() // 2048)].clone()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
