"""Muon, the optimizer (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks")."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = 3.4445, -4.7750, 2.0315


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter maps features to features; embeddings, and a UNet's first and last layer, are AdamW's."""
    return parameter.ndim > 1 and not any(part in name for part in ("embed", "conv_in", "conv_out"))


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: each step changes all directions of a matrix alike, also those of small gradients.

    Convolutions are matrices of (out, in * height * width). The change has the size that AdamW's would have at the same
    learning rate (Liu et al. 2025, "Muon is scalable for LLM training", arXiv 2502.16982, section 2.2).
    PyTorch's own takes no convolutions, and each matrix by itself, which on a GPU takes longer than the gradients.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            rate, momentum, alike = group["lr"], group["momentum"], defaultdict(list)
            for parameter in group["params"]:
                alike[parameter.flatten(1).shape].append(parameter)
            for shape, parameters in alike.items():
                gradients = [parameter.grad for parameter in parameters]
                means = [self.state[p].setdefault("mean", torch.zeros_like(p)) for p in parameters]
                torch._foreach_lerp_(means, gradients, 1 - momentum)
                ahead = torch._foreach_lerp(gradients, means, momentum)
                changes = orthogonal(torch.stack([each.flatten(1) for each in ahead]))
                torch._foreach_mul_(parameters, 1 - rate * group["decay"])
                for parameter, change in zip(parameters, changes, strict=True):
                    parameter.sub_(change.view(parameter.shape), alpha=0.2 * math.sqrt(max(shape)) * rate)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly the nearest orthogonal ones of matrices (n, r, c), by Newton-Schulz iterations."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT, steps).mT
    result = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    first, third, fifth = COEFFICIENTS
    for _ in range(steps):
        square = result @ result.mT
        result = first * result + (third * square + fifth * square @ square) @ result
    return result
