"""Frozen layers that use less memory in tuning and, on CPUs, less time."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenConv2d(nn.Conv2d):
    """A convolution that saves only its weight for the backward pass.

    PyTorch also saves the input, which only the weight's gradient needs: a sixth of a tuning step's memory. On a CPU,
    small images with many channels are computed as one matrix product, which uses the weight as it is in memory;
    oneDNN would repack the whole weight for a handful of pixels.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        if _trains(self) or self.padding_mode != "zeros":
            return super().forward(hidden_states)
        if self._is_mostly_weight(hidden_states):
            return self._as_matrix_product(hidden_states)
        if not (torch.is_grad_enabled() and hidden_states.requires_grad):
            return super().forward(hidden_states)
        settings = (self.stride, self.padding, self.dilation, self.groups)
        return _FrozenConvolution.apply(hidden_states, self.weight, self.bias, settings)

    def _is_mostly_weight(self, hidden_states: Tensor) -> bool:
        return (
            _is_plain(hidden_states, self.weight)
            and hidden_states.numel() <= 128 * self.in_channels  # pixels
            and self.in_channels >= 128
            and (self.stride, self.dilation, self.groups) == ((1, 1), (1, 1), 1)
            and all(side == 2 * pad + 1 for side, pad in zip(self.kernel_size, self.padding, strict=True))
            and self.weight.is_contiguous(memory_format=torch.channels_last)
        )

    def _as_matrix_product(self, hidden_states: Tensor) -> Tensor:
        height, width = hidden_states.shape[-2:]
        (kernel_height, kernel_width), (above, left) = self.kernel_size, self.padding
        padded = F.pad(hidden_states.permute(0, 2, 3, 1), (0, 0, left, left, above, above))
        shifts = itertools.product(range(kernel_height), range(kernel_width))
        windows = torch.cat([padded[:, y : y + height, x : x + width] for y, x in shifts], dim=-1)
        matrix = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(windows, matrix, self.bias).permute(0, 3, 1, 2)


class _FrozenConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_states: Tensor, weight: Tensor, bias: Tensor | None, settings: tuple) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.dtype, ctx.settings = hidden_states.shape, hidden_states.dtype, settings
        return F.conv2d(hidden_states, weight, bias, *settings)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (weight,) = ctx.saved_tensors
        gradient = torch.nn.grad.conv2d_input(ctx.shape, weight.to(gradient.dtype), gradient, *ctx.settings)
        return gradient.to(ctx.dtype), None, None, None


class PointwiseLinear(nn.Linear):
    """A linear layer computed on a CPU as a 1x1 convolution.

    oneDNN's convolutions multiply matrices faster than the BLAS behind nn.Linear, twice as fast on AMD processors.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self._pays(hidden_states):
            return _FrozenProduct.apply(hidden_states, self.weight, self.bias)
        return super().forward(hidden_states)

    def _pays(self, hidden_states: Tensor) -> bool:
        return (
            _is_plain(hidden_states, self.weight)
            and hidden_states.numel() >= 256 * self.in_features  # below, packing the weight takes longer than it saves
            and not _trains(self)
        )


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _pointwise(hidden_states, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (weight,) = ctx.saved_tensors
        return _pointwise(gradient, weight.t()), None, None


def _pointwise(hidden_states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """... i -> ... o, as an image one pixel wide in channels-last memory, so that nothing is copied."""
    image = hidden_states.reshape(1, -1, 1, hidden_states.shape[-1]).permute(0, 3, 1, 2)
    output = F.conv2d(image, weight[:, :, None, None], bias)
    return output.permute(0, 2, 3, 1).reshape(*hidden_states.shape[:-1], len(weight))


def _trains(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters())


def _is_plain(hidden_states: Tensor, weight: Tensor) -> bool:
    """Whether this is plain float32 on a CPU with oneDNN."""
    return (
        hidden_states.device.type == "cpu"
        and hidden_states.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )


LIGHT = {nn.Conv2d: FrozenConv2d, nn.Linear: PointwiseLinear}


def lighten(network: nn.Module) -> None:
    """Makes a network's plain layers light, in place; their weights, names and results stay, and they still train."""
    for module in network.modules():
        module.__class__ = LIGHT.get(type(module), type(module))


def restore(network: nn.Module) -> None:
    """Undoes `lighten`."""
    plain = {light: kind for kind, light in LIGHT.items()}
    for module in network.modules():
        module.__class__ = plain.get(type(module), type(module))
