"""The weights that an inflated MODEL has beside its own, as a model of its own that the host's memory manager sees."""

from collections.abc import Mapping

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...tav_core.attention import FrameCount, TemporalAttnProcessor

# safe: the layers of every model that the host may keep in another place or precision than it computes in
OPS = comfy.ops.manual_cast


class AddedBlock(nn.Module):
    """What one transformer block gets: attention over time, and query differences that its weights cannot hold."""

    def __init__(self, shapes: Mapping[str, torch.Size], heads: int, dtype: torch.dtype):
        super().__init__()
        self.heads = heads
        for name in ("attn1", "attn2"):
            if shape := shapes.get(f"{name}.to_q.weight"):
                setattr(self, name, nn.Module())
                getattr(self, name).to_q = OPS.Linear(shape[1], shape[0], bias=False, dtype=dtype, device="cpu")
        if shape := shapes.get("attn_temp.to_q.weight"):
            # tuning leaves the norm's weights at 1 and 0, and they are not kept
            trained = "norm_temp.weight" in shapes
            self.norm_temp = OPS.LayerNorm(shape[0], elementwise_affine=trained, dtype=dtype, device="cpu")
            self.attn_temp = TemporalAttention(shape[0], heads, dtype)

    def over_time(self, hidden_states: Tensor, count: FrameCount) -> Tensor:
        """(b f) n c -> the residual of the same shape."""
        return TemporalAttnProcessor(count)(self.attn_temp, self.norm_temp(hidden_states))


class TemporalAttention(nn.Module):
    """The layers that tav_core's TemporalAttnProcessor reads off diffusers' Attention, under the same names."""

    def __init__(self, channels: int, heads: int, dtype: torch.dtype):
        super().__init__()
        self.heads = heads
        linear = {"dtype": dtype, "device": "cpu"}
        self.to_q, self.to_k, self.to_v = (OPS.Linear(channels, channels, bias=False, **linear) for _ in range(3))
        self.to_out = nn.ModuleList([OPS.Linear(channels, channels, **linear), nn.Identity()])


class AddedWeights(nn.Module):
    """An AddedBlock for each transformer block, by its path in diffusers."""

    def __init__(self, tensors: Mapping[str, Tensor], heads: Mapping[str, int], dtype: torch.dtype):
        super().__init__()
        self.paths = [path for path in heads if any(name.startswith(f"{path}.") for name in tensors)]
        self.blocks = nn.ModuleList()
        for path in self.paths:
            own = {name[len(path) + 1 :]: t for name, t in tensors.items() if name.startswith(f"{path}.")}
            block = AddedBlock({name: tensor.shape for name, tensor in own.items()}, heads[path], dtype)
            block.load_state_dict(own)
            self.blocks.append(block.requires_grad_(False))
        self.device = torch.device("cpu")  # the host keeps account of it here


def added_model(tensors: dict[str, Tensor], heads: dict[str, int], dtype: torch.dtype) -> ModelPatcher:
    """A patcher over AddedWeights, for `set_additional_models`."""
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)  # the one that core gives ControlNets
    manage = comfy.model_management
    patcher = kind(
        AddedWeights(tensors, heads, dtype),
        load_device=manage.get_torch_device(),
        offload_device=manage.unet_offload_device(),
    )
    # safe: how a loader tells the host to make the model anew for another GPU
    patcher.cached_patcher_init = (added_model, (tensors, heads, dtype))
    return patcher
