"""The shell reads weights in a prompt as ComfyUI's CLIP Text Encode does."""

import pytest
import torch

from tests.host.inprocess import miniature, pack

PROMPTS = [
    "a red circle is moving on the grass",
    "a (red:1.3) circle is moving on the grass",
    "a ((red)) circle, (moving on the (grass:0.4)) at night",
    "(a red circle:1.5)(is moving) (on the grass:-0.5), (at: night)",
    r"a \(red\) circle (is \(moving\):1.2)",
    "a (red circle is) moving) on (the grass",
    "a re(d cir:1.4)cle",
    "(red:0) () (blue:1.0) (:2) ((:3))",
    "(red:1.2",
    "embedding:red (blue:1.3) BREAK green",
]


@pytest.fixture(scope="module")
def in_shell():
    return pack("tav_core.checkpoints.checkpoint").load_checkpoint(miniature().path)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_with_weights_is_encoded_as_in_comfyui(in_shell, prompt):
    ((theirs, _),) = miniature().text(prompt)
    ours = in_shell.encode_prompt(prompt).embeds
    print(f"{prompt}: {(ours - theirs).abs().max():.1e} of {theirs.abs().max():.1e}")
    torch.testing.assert_close(ours, theirs.float().cpu(), atol=1e-4, rtol=1e-4)
