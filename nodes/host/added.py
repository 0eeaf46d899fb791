"""The weights that inflation adds to a MODEL, as a separate model that the host's memory manager handles."""

from collections.abc import Mapping, Sequence

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...tav_core.addition import Addition
from .sd_model import Block

# safe: the layers of every host model whose weights may be stored on another device or in another dtype
OPS = comfy.ops.manual_cast


class AddedBlock(nn.Module):
    """What is added to one block of the network: modules, and query differences that its own weights cannot hold.

    tensors: by name relative to the block. size: the block's channels and heads.
    """

    def __init__(self, tensors: Mapping[str, Tensor], additions: Sequence[Addition], size: Block, dtype: torch.dtype):
        super().__init__()
        self.additions, placement = [], {"dtype": dtype, "device": "cpu"}
        for name in ("attn1", "attn2"):
            if (difference := tensors.get(f"{name}.to_q.weight")) is not None:
                setattr(self, name, nn.Module())
                getattr(self, name).to_q = OPS.Linear(*difference.shape[::-1], bias=False, **placement)
        for addition in additions:
            if any(name.startswith(f"{addition.trained}.") for name in tensors):
                self.additions.append(addition)
                for name, part in addition.build(*size, OPS, **placement).items():
                    setattr(self, name, part)
        for name, parameter in self.named_parameters():
            if name not in tensors:  # norms are neither tuned nor stored: the identity
                nn.init.constant_(parameter, float(name.endswith("weight")))
        self.load_state_dict({**self.state_dict(), **tensors})


class AddedWeights(nn.Module):
    """An AddedBlock for each block that has added weights. sizes: of each block, by its path in diffusers."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        additions: Sequence[Addition],
        sizes: Mapping[str, Block],
        dtype: torch.dtype,
    ):
        super().__init__()
        self.paths = [path for path in sizes if any(name.startswith(f"{path}.") for name in tensors)]
        self.blocks = nn.ModuleList()
        for path in self.paths:
            own = {name[len(path) + 1 :]: t for name, t in tensors.items() if name.startswith(f"{path}.")}
            self.blocks.append(AddedBlock(own, additions, sizes[path], dtype).requires_grad_(False))
        self.device = torch.device("cpu")  # the host tracks the model's device here


def added_model(
    tensors: dict[str, Tensor], additions: Sequence[Addition], sizes: dict[str, Block], dtype: torch.dtype
) -> ModelPatcher:
    """A patcher over AddedWeights, for `set_additional_models`. sizes: of each block, by its path in diffusers."""
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)  # as core uses for ControlNets
    manage = comfy.model_management
    patcher = kind(
        AddedWeights(tensors, additions, sizes, dtype),
        load_device=manage.get_torch_device(),
        offload_device=manage.unet_offload_device(),
    )
    # safe: what core's loaders set, so that the host can rebuild the model for another GPU
    patcher.cached_patcher_init = (added_model, (tensors, additions, sizes, dtype))
    return patcher
