"""The weights of a MODEL, including LoRAs, as a diffusers UNet."""

from collections.abc import Collection, Iterator

import comfy.lora
import torch
from comfy.model_patcher import ModelPatcher
from diffusers import UNet2DConditionModel
from torch import Tensor

from ...tav_core.checkpoints.networks import diffusers_network
from ...tav_core.fingerprints import digest_of_tensors, fingerprint_of
from .sd_model import compute_dtype, host_names, residual_norms, unet_config


def diffusers_unet(
    patcher: ModelPatcher, device: torch.device, dtype: torch.dtype | None = None
) -> UNet2DConditionModel:
    """A copy of the network as the MODEL computes with it, except tuned weights.

    dtype: by default what the host computes in. The MODEL, loaded or not, is not changed.
    """
    dtype, tensors = dtype or compute_dtype(patcher), {}
    for name, weight, patches in _weights(patcher):
        if patches:
            weight = comfy.lora.calculate_weight(patches, weight, name)  # safe: the host patches with this, too
        tensors[name] = weight.to(device, dtype)
    config = diffusers_config(unet_config(patcher))
    # the host's classes fix 32, except for the miniature
    config["norm_num_groups"] = residual_norms(patcher.model.diffusion_model)[0].num_groups
    return diffusers_network(UNet2DConditionModel, config, tensors, "The UNet of this MODEL")


def base_fingerprint(patcher: ModelPatcher) -> str:
    """tav_core's fingerprint of the base without LoRAs, so that a checkpoint is recognised whatever LoRAs are on it."""
    names = [name for name in host_names(patcher) if ".attn" in name]
    return fingerprint_of({name: weight.half() for name, weight, _ in _weights(patcher, names)})


def digest_of_rest(patcher: ModelPatcher) -> str:
    """Identifies the weights that `base_fingerprint` does not cover, without LoRAs."""
    names = sorted(name for name in host_names(patcher) if ".attn" not in name)  # the host's order varies by process
    return digest_of_tensors((name, weight) for name, weight, _ in _weights(patcher, names))


def _weights(patcher: ModelPatcher, names: Collection[str] | None = None) -> Iterator[tuple[str, Tensor, list]]:
    """(diffusers' name, a float32 copy of the unpatched weight, its patches)."""
    # safe: core's ModelSave and merging read weights this way; it sees through a loaded model's patches
    stored = patcher.get_key_patches("diffusion_model.")
    keys = host_names(patcher)
    for name in keys if names is None else names:
        (weight, convert), *patches = stored[keys[name]]
        copy = convert(weight.to("cpu", torch.float32, copy=True), inplace=True)
        yield name, copy, patches


def diffusers_config(host: dict) -> dict:
    """Converts the host's UNet config to diffusers'."""
    levels = len(host["channel_mult"])
    channels = [host["model_channels"] * times for times in host["channel_mult"]]
    layers = host["num_res_blocks"][0]
    depths = [host["transformer_depth"][layers * level] for level in range(levels)]
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)]
    width, labels = host.get("num_head_channels", -1), host.get("adm_in_channels")
    return {
        "in_channels": host["in_channels"],
        "out_channels": host["out_channels"],
        "block_out_channels": channels,
        "down_block_types": down,
        "up_block_types": up,
        "layers_per_block": layers,
        "cross_attention_dim": host["context_dim"],
        # despite the name, the number of heads
        "attention_head_dim": [c // width for c in channels] if width > 0 else host["num_heads"],
        "use_linear_projection": bool(host.get("use_linear_in_transformer")),
        # diffusers takes the middle block's from the last level
        "transformer_layers_per_block": [*depths[:-1], host["transformer_depth_middle"]],
        "class_embed_type": "projection" if labels else None,  # the host's `y` is diffusers' `class_labels`
        "projection_class_embeddings_input_dim": labels,
    }
