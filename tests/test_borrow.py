"""Published numbers of Plug-and-Play and TokenFlow (tests/golden/published), and the choice of layers."""

import pytest
import torch
from einops import rearrange

from tav_core import inflate
from tav_core.borrow import Structure
from tav_core.inflate import transformer_blocks
from tav_core.lend import lent, structure_of
from tests import golden
from tests.networks import tiny_unet

PLAIN = {"group_norm": "frame", "temporal": False}


def injected(case, name: str) -> Structure:
    """The blocks that inject, as the published code's own network names them."""
    modules = case.settings["modules"][name]["injecting"]
    resnets = tuple(path for path in modules if ".resnets." in path)
    return Structure(resnets, tuple(path.removesuffix(".attn1") for path in modules if path.endswith(".attn1")))


def attending(unet, pattern: str) -> None:
    for block in transformer_blocks(unet.unet).values():
        block.attn1.processor.pattern = pattern


@pytest.mark.parametrize("name", ["none", "features", "qk", "both"])
@pytest.mark.parametrize(("method", "pattern"), [("plug_and_play", "frame"), ("tokenflow", "full")])
def test_borrowed_features_give_the_published_prediction(method, pattern, name):
    case = golden.load(f"published/{method}")
    unet = inflate(case.unet2d(), attention="frame", **PLAIN)
    sample, text = case["in.sample"], case["in.encoder_hidden_states"]
    source, *edits = rearrange(sample, "(b f) c h w -> b 1 c f h w", b=3)
    prompts = rearrange(text, "(b f) n d -> b 1 f n d", b=3)
    expected = rearrange(case[f"out.{name}"], "(b f) c h w -> b 1 c f h w", b=3)
    timestep = int(case["in.timestep"])
    with torch.no_grad(), lent(unet, injected(case, name)) as loan:
        with loan.recording(structure=True, layout=False):
            torch.testing.assert_close(unet(source, timestep, prompts[0]), expected[0], atol=1e-5, rtol=0)
        attending(unet, pattern)  # TokenFlow's source frames attend to themselves, the others to all
        with loan.lending(structure=True, layout=None):
            for edit, prompt, prediction in zip(edits, prompts[1:], expected[1:], strict=True):
                torch.testing.assert_close(unet(edit, timestep, prompt), prediction, atol=1e-5, rtol=0)
            together = unet(torch.cat(edits), timestep, prompts[1:].flatten(0, 1))
            torch.testing.assert_close(together, expected[1:].flatten(0, 1), atol=1e-5, rtol=0)


def test_stable_diffusion_borrows_where_plug_and_play_does():
    case = golden.load("published/plug_and_play")
    assert structure_of(case.unet2d()) == injected(case, "both")


def test_a_smaller_network_borrows_from_the_same_part_of_its_decoder_and_one_of_two_levels_from_its_beginning():
    assert structure_with(3).features == ("up_blocks.1.resnets.0",)  # of six
    structure = structure_with(2)
    places = (
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
        "up_blocks.1.attentions.0",
        "up_blocks.1.attentions.1",
    )
    assert structure.features == ("up_blocks.0.resnets.0",)
    assert structure.attention == tuple(f"{path}.transformer_blocks.0" for path in places)


def structure_with(levels: int) -> Structure:
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D",) * levels,
        "up_block_types": ("CrossAttnUpBlock2D",) * levels,
    }
    return structure_of(tiny_unet(**blocks, block_out_channels=(32, 64, 64)[:levels]))
