"""What the configs of Stable Diffusion's parts may hold: read, typed and bounded before anything is built from them."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import TavError, brief, shown

LARGEST = 2**25  # bytes; a tokenizer.json takes 4 MB


@dataclass(frozen=True)
class Setting:
    """What a setting of a config may be. needed: the same in words, for error messages."""

    needed: str
    accepts: Callable[[object], bool]

    def __or__(self, other: "Setting") -> "Setting":
        return Setting(f"{self.needed}, or {other.needed}", lambda value: self.accepts(value) or other.accepts(value))


def whole(low: int, high: int) -> Setting:
    """A whole number in this range."""
    return Setting(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def positive(high: float) -> Setting:
    """A number above 0."""
    return Setting(f"a number above 0, up to {high:g}", lambda value: _is_number(value) and 0 < value <= high)


def one_of(*values: object) -> Setting:
    """One of these values, and of their types."""
    words = ", ".join(map(repr, values))
    return Setting(words, lambda value: any(type(value) is type(each) and value == each for each in values))


def several(each: Setting, most: int = 8) -> Setting:
    """A list, not empty."""
    return Setting(
        f"a list of 1 to {most}, each {each.needed}",
        lambda value: isinstance(value, (list, tuple)) and 1 <= len(value) <= most and all(map(each.accepts, value)),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


WIDTH, LAYERS, SWITCH, NOTHING = whole(1, 2**16), whole(1, 16), one_of(False, True), one_of(None)
SIZE = NOTHING | whole(1, 2**16) | several(whole(1, 2**16))
UNET = {
    "in_channels": one_of(4),
    "down_block_types": several(one_of("CrossAttnDownBlock2D", "DownBlock2D")),
    "mid_block_type": one_of("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None),
    "block_out_channels": several(WIDTH),
    "layers_per_block": LAYERS | several(LAYERS),
    "norm_num_groups": WIDTH,
    "cross_attention_dim": WIDTH,
    "transformer_layers_per_block": LAYERS | several(whole(0, 16)),
    "attention_head_dim": WIDTH | several(WIDTH),
    "use_linear_projection": SWITCH,
    "only_cross_attention": one_of(False) | several(one_of(False)),
    "upcast_attention": SWITCH | NOTHING,
    "class_embed_type": one_of(None, "projection"),  # of ComfyUI's models; of files, the family is refused first
    "projection_class_embeddings_input_dim": NOTHING | WIDTH,
}
SCHEMAS = {
    "UNet2DConditionModel": UNET
    | {
        "out_channels": one_of(4),
        "up_block_types": several(one_of("CrossAttnUpBlock2D", "UpBlock2D")),
        "sample_size": SIZE,
    },
    "ControlNetModel": UNET
    | {
        "conditioning_channels": one_of(3),
        "conditioning_embedding_out_channels": several(WIDTH),
        "controlnet_conditioning_channel_order": one_of("rgb", "bgr"),
        "global_pool_conditions": SWITCH,
    },
    "T2IAdapter": {
        "in_channels": one_of(1, 3),
        "channels": several(WIDTH),
        "num_res_blocks": LAYERS,
        "downscale_factor": one_of(8),
        "adapter_type": one_of("full_adapter", "light_adapter"),
    },
    "AutoencoderKL": {
        "in_channels": one_of(3),
        "out_channels": one_of(3),
        "latent_channels": one_of(4),
        "down_block_types": several(one_of("DownEncoderBlock2D")),
        "up_block_types": several(one_of("UpDecoderBlock2D")),
        "block_out_channels": several(WIDTH),
        "layers_per_block": LAYERS,
        "norm_num_groups": WIDTH,
        "sample_size": SIZE,
        "scaling_factor": positive(1000),
        "force_upcast": SWITCH,  # for pipelines, which this is not
    },
    "CLIPTextModel": {
        "vocab_size": whole(2, 2**20),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": whole(1, 64),
        "num_attention_heads": WIDTH,
        "max_position_embeddings": whole(3, 2**12),
        "hidden_act": one_of("quick_gelu", "gelu"),
        "layer_norm_eps": positive(1),
    },
    "DDIMScheduler": {
        "_class_name": Setting("a text", lambda value: isinstance(value, str)),
        "num_train_timesteps": one_of(1000),
        "beta_start": positive(1),
        "beta_end": positive(1),
        "beta_schedule": one_of("scaled_linear", "linear", "squaredcos_cap_v2"),
        "trained_betas": NOTHING,
        "prediction_type": one_of("epsilon", "v_prediction"),
        "thresholding": one_of(False),
        "rescale_betas_zero_snr": SWITCH,
    },
}
"""By the class of the part. What a network has no schema for must be as it is by default, which is as Stable Diffusion
has it; the text encoder and the schedule are made of these settings alone."""


def check(config: Mapping, cls: type, name: str) -> dict:
    """Returns the settings of a part that it is built from; raises TavError for one that it cannot have.

    name: of the part, for the error message, as in "The unet/ of sd15".
    """
    schema = SCHEMAS[cls.__name__]
    kept = {key: config[key] for key in schema if key in config}
    for key, value in kept.items():
        if not schema[key].accepts(value):
            raise _unsuitable(name, key, value, schema[key].needed)
    return kept


def check_network(config: Mapping, cls: type, name: str) -> dict:
    """As `check`, for a network of diffusers: all other settings that it takes must have their defaults."""
    for key, parameter in inspect.signature(cls.__init__).parameters.items():
        value, default = config.get(key, parameter.default), parameter.default
        if key not in SCHEMAS[cls.__name__] and key != "self" and value != default:
            raise _unsuitable(name, key, value, repr(default))
    return check(config, cls, name)


def read_config(folder: Path, name: str = "config.json") -> dict:
    """Reads the JSON config of a part of a diffusers folder."""
    try:
        config = read_json(folder / name)
        if not isinstance(config, dict):
            raise ValueError("not a JSON object")
        return config
    except (OSError, ValueError, RecursionError) as error:
        raise TavError(
            f"{folder.parent.name}/{folder.name}/{name} cannot be read ({brief(error)}): download the folder again."
        ) from error


def read_json(path: Path) -> object:
    """Reads a JSON file of a limited size; raises OSError, ValueError or RecursionError for any other."""
    return json.loads(read_text(path), parse_constant=_refuse_constant)


def read_text(path: Path) -> str:
    """Reads a text of a limited size; raises OSError or ValueError for any other file, and for what is not a file."""
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"there is no file {path.name}")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, more than the {LARGEST} that are read")
    return path.read_text(encoding="utf-8")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is not JSON")


def _unsuitable(name: str, key: str, value: object, needed: str) -> TavError:
    return TavError(
        f"{name} has {key} {shown(value)} in its config, but Stable Diffusion needs {needed}: download it again, or "
        "choose another checkpoint."
    )
