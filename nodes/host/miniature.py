"""The miniature checkpoint in the host's own classes, with its sizes instead of Stable Diffusion's."""

import json
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from comfy import model_management, sd, sd1_clip, utils
from comfy.model_patcher import ModelPatcher
from comfy.supported_models import SD15
from comfy.supported_models_base import ClipTarget
from comfy_api.latest import Input, InputImpl, Types
from comfy_execution.utils import get_executing_context
from safetensors.torch import load_file

from ...tav_core.checkpoints.networks import clip_names
from ...tav_core.demo.miniature import SKS_LORA, miniature_path
from ...tav_core.demo.settings import SETTINGS
from ...tav_core.demo.showcase import CLIP, FPS
from ...tav_core.errors import TavError
from ...tav_core.world.draw import draw_clip
from ...tav_core.world.vocabulary import unknown_words
from .differences import warn
from .progress import say
from .versions import known

HOST_VOCAB_SIZE = 49408
COLOURS = ([-0.1021, 0.0733, 0.0589], [0.3747, 0.2264, 0.0162], [-0.0121, -0.018, -0.0758], [-0.1175, -0.1833, -0.3916])
"""What each channel of its latents adds to red, green and blue in -1..1: a least-squares fit to drawn scenes."""
GREY = [-0.0409, -0.0038, 0.0543]
"""The colour of latents that are zero."""


def load_miniature(personalised: bool) -> tuple[ModelPatcher, sd.CLIP, sd.VAE]:
    """MODEL, CLIP and VAE. personalised: applies the LoRA that draws a "sks" shape with white bands."""
    folder = miniature_path()
    model, clip, vae = _model(folder / "unet"), _clip(folder), _vae(folder / "vae")
    if personalised:
        if not SKS_LORA.is_file():
            raise TavError(
                f"The miniature's LoRA is missing ({SKS_LORA}); reinstall this pack, or turn off personalised."
            )
        model, clip = sd.load_lora_for_models(model, clip, load_file(SKS_LORA), 1.0, 1.0)
    return model, clip, vae


def example_clip() -> Input.Video:
    """The clip of `tav demo`, not encoded."""
    images = torch.from_numpy(draw_clip(CLIP.scenes(SETTINGS.frames))).float() / 255
    return InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=Fraction(FPS)))


def _model(folder: Path) -> ModelPatcher:
    config, weights = read_config(folder), read_weights(folder)
    levels, width = len(config["block_out_channels"]), config["block_out_channels"][0]
    layers = config["layers_per_block"]

    class Miniature(SD15):
        # safe: the host reads head counts from here, since weights do not show them
        unet_extra_config = {"num_heads": config["attention_head_dim"], "num_head_channels": -1}  # noqa: RUF012

    # safe: the config that model_detection.py derives from SD 1.5's weights, with other sizes
    settings = Miniature(
        {
            "image_size": 32,
            "in_channels": config["in_channels"],
            "out_channels": config["out_channels"],
            "model_channels": width,
            "channel_mult": [channels // width for channels in config["block_out_channels"]],
            "num_res_blocks": [layers] * levels,
            "transformer_depth": [1] * layers * levels,
            "transformer_depth_middle": 1,
            "transformer_depth_output": [1] * (layers + 1) * levels,
            "context_dim": config["cross_attention_dim"],
            "use_spatial_transformer": True,
            "use_linear_in_transformer": False,
            "use_temporal_attention": False,
            "adm_in_channels": None,
            "legacy": False,
        }
    )
    names = utils.unet_to_diffusers(settings.unet_config)
    weights = {names[name]: tensor for name, tensor in weights.items()}
    device, offload = model_management.get_torch_device(), model_management.unet_offload_device()
    dtype = model_management.unet_dtype(
        model_params=utils.calculate_parameters(weights), supported_dtypes=settings.supported_inference_dtypes
    )
    cast = model_management.unet_manual_cast(dtype, device, settings.supported_inference_dtypes)
    settings.set_inference_dtype(dtype, cast)
    model = settings.get_model(weights, "")
    model.load_model_weights(weights, "")
    set_groups(model.diffusion_model, config["norm_num_groups"])
    # safe: where the host's previews look for colours; SD 1.5's would be wrong for another VAE
    model.latent_format.latent_rgb_factors, model.latent_format.latent_rgb_factors_bias = COLOURS, GREY
    return ModelPatcher(model.to(offload), load_device=device, offload_device=offload)


def _clip(folder: Path) -> sd.CLIP:
    # safe: the names under which the host's text encoders load weights, as in its own checkpoint format
    weights = {
        f"text_model.{name}": tensor for name, tensor in clip_names(read_weights(folder / "text_encoder")).items()
    }
    config = read_config(folder / "text_encoder")
    # safe: the host's embedding table has SD's length; the miniature's tokenizer never uses the padded rows
    embeddings = weights["text_model.embeddings.token_embedding.weight"]
    weights["text_model.embeddings.token_embedding.weight"] = F.pad(
        embeddings, (0, 0, 0, HOST_VOCAB_SIZE - len(embeddings))
    )
    weights["text_projection.weight"] = torch.eye(config["hidden_size"])  # SD 1.x has none
    special_tokens = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}

    class TextEncoder(sd1_clip.SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(
                device,
                textmodel_json_config=config,
                dtype=dtype,
                special_tokens=special_tokens,
                return_projected_pooled=False,
                model_options=model_options or {},
            )

    class TextModel(sd1_clip.SD1ClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(device, dtype, model_options or {}, clip_model=TextEncoder)

    class Words(sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(
                str(folder / "tokenizer"),
                embedding_directory=embedding_directory,
                embedding_size=config["hidden_size"],
                tokenizer_data=tokenizer_data or {},
            )

    class Tokenizer(sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=Words)
            self.warned = set()

        def tokenize_with_weights(self, text: str, return_word_ids=False, **options):
            _warn_of_unknown(text, self.warned)
            return super().tokenize_with_weights(text, return_word_ids, **options)

    # safe: the host itself names the pair by a ClipTarget for every family
    loaded = known(sd.CLIP, state_dict=[weights])
    clip = sd.CLIP(ClipTarget(Tokenizer, TextModel), parameters=utils.calculate_parameters(weights), **loaded)
    if not loaded:  # ComfyUI 0.3.64 loads weights in a separate call
        clip.load_sd(weights)
    return clip


def _warn_of_unknown(prompt: str, warned: set[str | None]) -> None:
    """Shows a prompt's unknown words in the node that encodes it. warned: the nodes that show some already."""
    context = get_executing_context()
    node_id = context and context.node_id
    unknown = [word for word in unknown_words(prompt) if word.isalpha()]  # a number is a weight, as in (red:1.2)
    if unknown:
        warn(
            f"The miniature does not know {', '.join(unknown)}; Load Miniature lists the words that it knows.", node_id
        )
        warned.add(node_id)
    elif node_id in warned:
        say("The miniature knows these words.", node_id)
        warned.discard(node_id)


def _vae(folder: Path) -> sd.VAE:
    config = read_config(folder)
    width = config["block_out_channels"][0]
    sizes = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": config["sample_size"],
        "in_channels": config["in_channels"],
        "out_ch": config["out_channels"],
        "ch": width,
        "ch_mult": [channels // width for channels in config["block_out_channels"]],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    # safe: `config` is how the host accepts a VAE of other sizes; it converts diffusers' names itself
    vae = sd.VAE(read_weights(folder), config={"params": {"ddconfig": sizes, "embed_dim": config["latent_channels"]}})
    set_groups(vae.first_stage_model, config["norm_num_groups"])
    return vae


def set_groups(network: torch.nn.Module, count: int) -> None:
    """The host's classes fix 32 groups, too many for networks with so few channels."""
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = count


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def read_weights(folder: Path) -> dict:
    (file,) = folder.glob("*.safetensors")
    return {name: tensor.float() for name, tensor in load_file(file).items()}
