"""The weights that an inflated MODEL has beside its own, as a model of its own that the host's memory manager sees."""

from collections.abc import Mapping, Sequence

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...tav_core.inflation import Addition

# safe: the layers of every model that the host may keep in another place or precision than it computes in
OPS = comfy.ops.manual_cast


class AddedBlock(nn.Module):
    """What one block of the network gets: added modules, and query differences that its own weights cannot hold.

    tensors: by name below the block. heads: of its attention; 1 where it has none.
    """

    def __init__(self, tensors: Mapping[str, Tensor], additions: Sequence[Addition], heads: int, dtype: torch.dtype):
        super().__init__()
        self.additions, placement = [], {"dtype": dtype, "device": "cpu"}
        for name in ("attn1", "attn2"):
            if (difference := tensors.get(f"{name}.to_q.weight")) is not None:
                setattr(self, name, nn.Module())
                getattr(self, name).to_q = OPS.Linear(*difference.shape[::-1], bias=False, **placement)
        for addition in additions:
            own = [tensor for name, tensor in tensors.items() if name.startswith(f"{addition.trained}.")]
            if own:
                self.additions.append(addition)
                for name, part in addition.build(len(own[0]), heads, OPS, **placement).items():
                    setattr(self, name, part)
        for name, parameter in self.named_parameters():
            if name not in tensors:  # what tuning leaves alone is a norm at the identity, and is not stored
                nn.init.constant_(parameter, float(name.endswith("weight")))
        self.load_state_dict({**self.state_dict(), **tensors})

    def residuals(self, hidden_states: Tensor, num_frames: int) -> Tensor:
        """What the added modules add to the block's output, which is their input."""
        return sum(addition.residual(self, hidden_states, num_frames) for addition in self.additions)


class AddedWeights(nn.Module):
    """An AddedBlock for each block that has added weights, by its path in diffusers."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        additions: Sequence[Addition],
        heads: Mapping[str, int],
        dtype: torch.dtype,
    ):
        super().__init__()
        self.paths = [path for path in heads if any(name.startswith(f"{path}.") for name in tensors)]
        self.blocks = nn.ModuleList()
        for path in self.paths:
            own = {name[len(path) + 1 :]: t for name, t in tensors.items() if name.startswith(f"{path}.")}
            self.blocks.append(AddedBlock(own, additions, heads[path], dtype).requires_grad_(False))
        self.device = torch.device("cpu")  # the host keeps account of it here


def added_model(
    tensors: dict[str, Tensor], additions: Sequence[Addition], heads: dict[str, int], dtype: torch.dtype
) -> ModelPatcher:
    """A patcher over AddedWeights, for `set_additional_models`. heads: of each block, by its path in diffusers."""
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)  # the one that core gives ControlNets
    manage = comfy.model_management
    patcher = kind(
        AddedWeights(tensors, additions, heads, dtype),
        load_device=manage.get_torch_device(),
        offload_device=manage.unet_offload_device(),
    )
    # safe: how a loader tells the host to make the model again for another GPU
    patcher.cached_patcher_init = (added_model, (tensors, additions, heads, dtype))
    return patcher
