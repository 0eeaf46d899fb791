"""A kind of module that is none of the paper's: one entry of ADDITIONS carries it through everything."""

from dataclasses import dataclass, replace

import pytest
import torch
from diffusers import DDPMScheduler
from einops import rearrange
from torch import nn

from tav_core import TavError, TuneConfig, TunedWeights, inflate, tune
from tav_core.addition import Addition
from tav_core.inflation import ADDITIONS, Inflation
from tests.networks import SCHEDULE, text, tiny_unet, video


class ConvolutionOverTime(nn.Module):
    """A 1-D convolution over the frames, of 3 frames at a time, followed by a pointwise one."""

    def __init__(self, channels: int, layers=nn, **placement):
        super().__init__()
        self.over_time = layers.Conv1d(channels, channels, 3, padding=1, **placement)
        self.to_out = layers.Conv1d(channels, channels, 1, **placement)

    def forward(self, hidden_states: torch.Tensor, num_frames: int) -> torch.Tensor:
        _, _, height, width = hidden_states.shape
        pixels = rearrange(hidden_states, "(b f) c h w -> (b h w) c f", f=num_frames)
        output = self.to_out(self.over_time(pixels))
        return rearrange(output, "(b h w) c f -> (b f) c h w", h=height, w=width)


def initialise(parts, generator) -> None:
    convolution = parts["conv_temp"]
    drawn = torch.randn(convolution.over_time.weight.shape, generator=generator)
    convolution.over_time.weight.data.copy_(0.05 * drawn)
    for tensor in (convolution.over_time.bias, convolution.to_out.weight, convolution.to_out.bias):
        nn.init.zeros_(tensor)


@dataclass(frozen=True)
class WithConvolutions(Inflation):
    over_time: bool = True


@pytest.fixture(autouse=True)
def known(monkeypatch):
    addition = Addition(
        place="resnet",
        build=lambda channels, heads, layers=nn, **placement: {
            "conv_temp": ConvolutionOverTime(channels, layers, **placement)
        },
        initialise=initialise,
        residual=lambda block, hidden_states, num_frames: block.conv_temp(hidden_states, num_frames),
        trained="conv_temp",
        output="conv_temp.to_out",
    )
    monkeypatch.setitem(ADDITIONS, "over_time", (addition,))
    # an inflation that has no such field leaves it out
    monkeypatch.setattr(Inflation, "over_time", False, raising=False)


def forward(unet) -> torch.Tensor:
    with torch.no_grad():
        return unet(video(), 500, text())


def test_it_is_added_to_each_residual_block_as_the_identity():
    unet, paper_s = inflate(tiny_unet(), WithConvolutions()), inflate(tiny_unet())
    added = {name for name in unet.trainable_parameters() if ".conv_temp." in name}
    blocks = {name for name, _ in unet.unet.named_modules() if name.rpartition(".")[0].endswith("resnets")}
    assert {name.partition(".conv_temp.")[0] for name in added} == blocks != set()
    assert set(unet.trainable_parameters()) - added == set(paper_s.trainable_parameters())
    torch.testing.assert_close(forward(unet), forward(paper_s))


def test_its_shapes_are_known_without_a_network():
    shapes = ADDITIONS["over_time"][0].shapes(16, 1)
    block = {f"up_blocks.1.resnets.0.{name}": shape for name, shape in shapes.items()}
    parameters = inflate(tiny_unet(), WithConvolutions()).trainable_parameters()
    assert block.items() <= {name: parameter.shape for name, parameter in parameters.items()}.items()


def test_it_is_tuned_stored_applied_scaled_and_taken_away(tmp_path):
    inflation = WithConvolutions()
    unet, before = inflate(tiny_unet(), inflation), forward(inflate(tiny_unet(), inflation))
    start = {name: parameter.clone() for name, parameter in unet.trainable_parameters().items()}
    config = TuneConfig(num_steps=4, learning_rate=1e-2, gradient_checkpointing=True)
    tune(unet, video(), text(), DDPMScheduler(**SCHEDULE), config)
    assert not [name for name, parameter in unet.trainable_parameters().items() if torch.equal(parameter, start[name])]

    TunedWeights.from_unet(unet).save(tmp_path / "tuned.safetensors")
    weights = TunedWeights.load(tmp_path / "tuned.safetensors")
    assert {name for name in weights.tensors if ".conv_temp." in name}
    assert weights.facts.as_metadata().items() >= {"temporal": True, "over_time": True}.items()

    fresh, outputs = inflate(tiny_unet(), WithConvolutions.from_metadata(weights.facts.as_metadata())), {}
    for strength in (1.0, 0.5, 0.0):
        weights.apply(fresh, strength)
        outputs[strength] = forward(fresh)
    torch.testing.assert_close(outputs[1.0], forward(unet))
    assert torch.equal(outputs[0.0], before)
    away = [(outputs[strength] - before).abs().max() for strength in (1.0, 0.5)]
    assert 0 < away[1] < away[0]
    name = "mid_block.resnets.0.conv_temp."
    weights.apply(fresh, 0.5)
    for part, scale in (("over_time.weight", 1.0), ("to_out.weight", 0.5), ("to_out.bias", 0.5)):
        expected = scale * weights.tensors[name + part]
        torch.testing.assert_close(fresh.trainable_parameters()[name + part].detach(), expected)

    weights.apply(fresh, 0.0)
    plain, expected = fresh.deflate(), tiny_unet()
    assert plain.state_dict().keys() == expected.state_dict().keys()
    frames = rearrange(video(), "1 c f h w -> f c h w")
    with torch.no_grad():
        both = (network(frames, 500, text().expand(4, -1, -1)).sample for network in (plain, expected))
        torch.testing.assert_close(*both)


def test_weights_with_it_do_not_fit_a_network_without_it():
    unet = inflate(tiny_unet(), WithConvolutions())
    unet.keep_base_queries()
    for name in unet.base_queries:
        unet.base_queries[name] = unet.base_queries[name].clone() + 1
    with pytest.raises(TavError, match=r"conv_temp.* for nothing"):
        TunedWeights.from_unet(unet).apply(inflate(tiny_unet()))


def test_it_can_be_alone():
    unet = inflate(tiny_unet(), replace(WithConvolutions(), temporal=False))
    assert not [name for name in unet.trainable_parameters() if ".attn_temp." in name]
    assert [name for name in unet.trainable_parameters() if ".conv_temp." in name]
