"""The miniature's pose ControlNet and depth T2I-Adapter in the host's own classes."""

from itertools import pairwise

from comfy import controlnet, model_management, ops, utils
from comfy.cldm.cldm import ControlNet
from comfy.ldm.modules.diffusionmodules.openaimodel import TimestepEmbedSequential
from comfy.t2i_adapter.adapter import Adapter
from torch import Tensor, nn

from ...tav_core.demo.miniature import miniature_path
from .miniature import read_config, read_weights, set_groups

OPERATIONS = ops.disable_weight_init


def load_pose_controlnet() -> controlnet.ControlNet:
    folder = miniature_path() / "pose"
    config, weights = read_config(folder), read_weights(folder)
    settings = _settings(config)
    network = ControlNet(image_size=32, operations=OPERATIONS, **settings)
    network.input_hint_block = _hint_block(config)
    names = _names(config, settings)
    network.load_state_dict({names[name]: tensor for name, tensor in weights.items()})
    set_groups(network, config["norm_num_groups"])
    return controlnet.ControlNet(network, load_device=model_management.get_torch_device())


def load_depth_adapter() -> controlnet.T2IAdapter:
    folder = miniature_path() / "depth"
    config, weights = read_config(folder), read_weights(folder)
    network = _DepthAdapter(
        channels=config["channels"],
        nums_rb=config["num_res_blocks"],
        cin=config["in_channels"] * config["downscale_factor"] ** 2,
        ksize=1,
        sk=True,
        use_conv=False,
        xl=False,
    )
    names = {name: name.removeprefix("adapter.").replace("resnets.0.", "") for name in weights}
    network.load_state_dict({names[name]: tensor for name, tensor in weights.items()})
    return controlnet.T2IAdapter(network, network.input_channels, config["downscale_factor"], "nearest-exact")


class _DepthAdapter(Adapter):
    """The host's adapter counts two residual blocks per level; the miniature has one."""

    def forward(self, x: Tensor) -> dict[str, list[Tensor | None]]:
        features = super().forward(x)["input"]  # last first; of each level its feature, then None for two more blocks
        return {"input": [feature for place, feature in enumerate(features) if place % 3 != 2]}


def _settings(config: dict) -> dict:
    """The host's settings for a ControlNet without attention."""
    channels, layers = config["block_out_channels"], config["layers_per_block"]
    return {
        "in_channels": config["in_channels"],
        "model_channels": channels[0],
        "hint_channels": config["conditioning_channels"],
        "num_res_blocks": [layers] * len(channels),
        "channel_mult": [width // channels[0] for width in channels],
        "num_heads": config["attention_head_dim"],
        "use_spatial_transformer": True,
        "context_dim": config["cross_attention_dim"],
        "transformer_depth": [0] * layers * len(channels),
        "transformer_depth_middle": -1,
        "legacy": False,
    }


def _hint_block(config: dict) -> nn.Module:
    """diffusers' embedding of the control image; the host's class fixes its widths."""
    widths = config["conditioning_embedding_out_channels"]
    layers = [(config["conditioning_channels"], widths[0], 1)]
    for width, wider in pairwise(widths):
        layers += [(width, width, 1), (width, wider, 2)]
    layers.append((widths[-1], config["block_out_channels"][0], 1))
    modules = []
    for given, made, stride in layers:
        modules += [OPERATIONS.conv_nd(2, given, made, 3, padding=1, stride=stride), nn.SiLU()]
    return TimestepEmbedSequential(*modules[:-1])


def _names(config: dict, settings: dict) -> dict[str, str]:
    """The host's names of a ControlNet's tensors, by diffusers'."""
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    names = utils.unet_to_diffusers(settings | {"transformer_depth_output": [0] * levels * (layers + 1)})
    modules = {"controlnet_mid_block": "middle_block_out.0"}
    modules |= {f"controlnet_down_blocks.{n}": f"zero_convs.{n}.0" for n in range(levels * (layers + 1))}
    blocks = 2 * (len(config["conditioning_embedding_out_channels"]) - 1)
    embedding = ["conv_in", *(f"blocks.{n}" for n in range(blocks)), "conv_out"]
    modules |= {f"controlnet_cond_embedding.{name}": f"input_hint_block.{2 * n}" for n, name in enumerate(embedding)}
    return names | {f"{old}.{kind}": f"{new}.{kind}" for old, new in modules.items() for kind in ("weight", "bias")}
