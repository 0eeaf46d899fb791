import copy

import pytest
import torch
from torch import nn

from tav_core.light_layers import FrozenConv2d, PointwiseLinear, lighten, restore

LAYERS = {
    "convolution": (nn.Conv2d(8, 16, 3, padding=1), (2, 8, 12, 10)),
    "strided convolution": (nn.Conv2d(8, 16, 3, stride=2, padding=1), (2, 8, 12, 10)),
    "convolution of many channels": (nn.Conv2d(128, 16, 3, padding=1), (2, 128, 4, 6)),
    "pointwise convolution of many channels": (nn.Conv2d(128, 16, 1), (2, 128, 4, 6)),
    "convolution over time of many channels": (nn.Conv2d(128, 16, (3, 1), padding=(1, 0)), (2, 128, 4, 6)),
    "linear on many tokens": (nn.Linear(8, 16), (2, 300, 8)),
    "linear without bias": (nn.Linear(8, 16, bias=False), (2, 300, 8)),
    "linear on few tokens": (nn.Linear(8, 16), (2, 7, 8)),
}


def output_and_gradients(layer: nn.Module, shape, autocast=False):
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = layer(inputs)
    output.float().square().sum().backward()
    return [output.detach(), inputs.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_light_layer_gives_the_plain_ones_output_and_gradients(name, trained, autocast):
    layer, shape = LAYERS[name]
    plain = copy.deepcopy(layer).requires_grad_(trained).to(memory_format=torch.channels_last)
    light = copy.deepcopy(plain)
    lighten(light)
    assert type(light) in (FrozenConv2d, PointwiseLinear)
    precision = {"atol": 0.1, "rtol": 0.05} if autocast else {"atol": 1e-4, "rtol": 1e-4}
    for got, expected in zip(
        output_and_gradients(light, shape, autocast), output_and_gradients(plain, shape, autocast), strict=True
    ):
        assert (got is None) == (expected is None)
        if expected is not None:
            assert got.dtype == expected.dtype
            torch.testing.assert_close(got, expected, **precision)


@pytest.mark.parametrize("name", LAYERS)
def test_a_light_layer_keeps_nothing_but_its_weight(name):
    layer, shape = LAYERS[name]
    layer = copy.deepcopy(layer).requires_grad_(False).to(memory_format=torch.channels_last)
    lighten(layer)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(torch.randn(shape, requires_grad=True))
    assert kept
    assert all(tensor.untyped_storage().data_ptr() == layer.weight.untyped_storage().data_ptr() for tensor in kept)


def test_a_trained_bias_and_circular_padding_are_left_to_pytorch():
    for layer, shape in (LAYERS["convolution"], LAYERS["linear on many tokens"]):
        light = copy.deepcopy(layer).requires_grad_(True)
        light.weight.requires_grad_(False)
        lighten(light)
        light(torch.randn(shape, requires_grad=True)).sum().backward()
        assert light.bias.grad is not None
    circular = nn.Conv2d(128, 8, 3, padding=1, padding_mode="circular").requires_grad_(False)
    inputs = torch.randn(1, 128, 4, 4, requires_grad=True)
    expected = circular(inputs)
    lighten(circular)
    assert torch.equal(circular(inputs), expected)


def test_restoring_leaves_plain_layers():
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(nn.Linear(4, 4)), nn.SiLU())
    lighten(network)
    restore(network)
    assert [type(m) for m in network.modules()][1:] == [nn.Conv2d, nn.Sequential, nn.Linear, nn.SiLU]
