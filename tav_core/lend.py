"""Hooks a loan into an inflated network of diffusers; nodes/host does the same for ComfyUI's."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from diffusers import UNet2DConditionModel

from .attention import TextAttnProcessor
from .borrow import Loan, Structure
from .inflate import InflatedUNet, transformer_blocks


def structure_of(unet: UNet2DConditionModel) -> Structure:
    """The blocks from which an edit borrows by default; inflated or not."""
    resnets = [name.removesuffix(".conv2") for name, _ in unet.named_modules() if name.endswith(".conv2")]
    return Structure.of(resnets, transformer_blocks(unet))


@contextmanager
def lent(unet: InflatedUNet, structure: Structure | None = None) -> Iterator[Loan]:
    """In this context, the network's layers record and borrow as the loan says. structure: None for the default."""
    loan, blocks = Loan(), transformer_blocks(unet.unet)
    layers = (structure or structure_of(unet.unet)).layers
    with ExitStack() as hooks:
        for name, (path, layer) in layers.items():
            module = unet.unet.get_submodule(f"{path}.{layer}")
            hooks.callback(module.register_forward_hook(loan.replacing(name)).remove)
        for path, block in blocks.items():
            for part in ("to_q", "to_k"):
                module = block.attn2.get_submodule(part)
                hooks.callback(module.register_forward_hook(loan.noting(f"{path}.attn2.{part}")).remove)
            hooks.callback(block.attn2.set_processor, block.attn2.processor)
            block.attn2.set_processor(TextAttnProcessor(partial(loan.attend, f"{path}.attn2")))
        hooks.callback(loan.forget)
        yield loan
