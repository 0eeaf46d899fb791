"""Identifies a checkpoint's model family by the names and shapes of its tensors or by its network's config."""

import re
from collections.abc import Mapping, Sequence

from .errors import TavError, shown

UNET, VAE, TEXT_ENCODER = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."  # original layout

# Tensor names of files that are not Stable Diffusion 1.x or 2.x. The first pattern that matches wins, so additions to
# a model come before the model, and the specific before the general.
LOOKS_LIKE = (
    (r"lora_(up|down|A|B|unet|te)|\.lora\.|\.(hada_w1|lokr_w1)", "a LoRA"),
    (r"^(emb_params|string_to_param)", "a textual inversion embedding"),
    (r"^(ip_adapter|image_proj)\.", "an IP-Adapter"),
    (r"^control_model\.|controlnet_|^(zero_convs|input_hint_block)\.", "a ControlNet"),
    (r"^(conv_in\.known|(down|mid|up)_block.*\.(attn|conv\d)_temp)\.", "tuned weights of Tune-A-Video"),
    (r"motion_modules\.|temporal_transformer", "an AnimateDiff model"),
    (r"\.time_(stack|mixer)\.|temporal|\.temopral_conv\.", "a video model such as Stable Video Diffusion"),
    (r"^conditioner\.embedders\.1\.", "Stable Diffusion XL"),
    (r"joint_blocks\.", "Stable Diffusion 3"),
    (r"individual_token_refiner", "HunyuanVideo"),
    (r"double_blocks\.|single_transformer_blocks\.", "Flux"),
    (r"(^|\.)head\.modulation|\.blocks\.\d+\.cross_attn\.norm_k", "Wan, a video model"),
    (r"patchify_proj\.", "LTX-Video"),
    (r"clip_txt_mapper|\.channelwise\.", "Stable Cascade"),
)
WITHOUT_UNET = (
    (rf"^{re.escape(UNET)}", "another architecture"),
    (r"^(input_blocks|output_blocks)\.", "a UNet alone, without VAE and text encoder"),
    (r"^(down_blocks|mid_block|up_blocks|conv_in)\.", "a part of a diffusers folder, or tuned weights"),
    (r"text_model\.|resblocks\.|^encoder\.block\.|^shared\.", "a text encoder alone"),
    (r"^(first_stage_model\.)?(encoder|decoder|quant_conv)\.", "a VAE alone"),
)
NAMES = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x"}
SUPPORTED = "Stable Diffusion 1.x or 2.x"  # in error messages
WIDTHS = {768: "sd1", 1024: "sd2", 1280: "the refiner of Stable Diffusion XL", 2048: "Stable Diffusion XL"}  # of text
# Tensor names in LoRAs and ControlNets for other models.
MADE_FOR = (
    (r"^lora_te2_|text_encoder_2\.|add_embedding|label_emb", "Stable Diffusion XL"),
    (r"motion_modules", "AnimateDiff"),
    (r"joint_blocks|^lora_te3_", "Stable Diffusion 3"),
    (r"single_transformer_blocks", "Flux"),
    (r"double_blocks|single_blocks|add_k_proj", "another architecture, such as Flux or Stable Diffusion 3"),
    (r"blocks[._]\d+[._](cross|self)_attn[._]", "Wan, a video model"),
)
DISTILLED = "a latent consistency model, which takes the guidance scale as an input"
INPUTS = {5: "a depth-to-image model", 7: "an upscaler", 8: "InstructPix2Pix", 9: "an inpainting model"}


def family_of_tensors(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    """Returns "sd1" or "sd2" for the tensors of a file in the original layout; for others, a TavError says what it is.

    name: of the file, for the error message.
    """
    listing = "\n".join(shapes)
    first = shapes.get(UNET + "input_blocks.0.0.weight")
    for pattern, other in LOOKS_LIKE if first is not None else LOOKS_LIKE + WITHOUT_UNET:
        if re.search(pattern, listing, re.MULTILINE):
            raise _refusal(name, other)
    if first is None:
        raise TavError(
            f"{name} is not a Stable Diffusion model, judging by its {len(shapes)} tensors: "
            f"choose a checkpoint of {SUPPORTED}."
        )
    if len(first) == 5:
        raise _refusal(name, "a video model with 3-D convolutions")
    if any(key.startswith(UNET + "time_embed") and "cond_proj" in key for key in shapes):
        raise _refusal(name, DISTILLED)
    context = _width(shapes.get(UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight", ()))
    linear = len(shapes.get(UNET + "middle_block.1.proj_in.weight", ())) == 2
    return _family(name, _width(first), context, linear, any(key.startswith(UNET + "label_emb.") for key in shapes))


def family_of_config(config: Mapping, name: str) -> str:
    """Returns "sd1" or "sd2" for the config of a diffusers network; for others, a TavError says what it is."""
    network = str(config.get("_class_name", "UNet2DConditionModel"))
    if network != "UNet2DConditionModel":
        video = "a video model" if re.search("3D|Motion|SpatioTemporal", network) else "another architecture"
        raise _refusal(name, f"{video} ({network[:60]})")
    if config.get("time_cond_proj_dim"):
        raise _refusal(name, DISTILLED)
    labelled = config.get("addition_embed_type") or config.get("class_embed_type") or config.get("num_class_embeds")
    linear = bool(config.get("use_linear_projection"))
    return _family(name, config.get("in_channels", 4), config.get("cross_attention_dim"), linear, bool(labelled))


def family_of_addition(shapes: Mapping[str, tuple[int, ...]], name: str, kind: str) -> str | None:
    """The family that a LoRA or ControlNet was made for, "sd1" or "sd2"; None if its tensors do not show it.

    name, kind: of the file, for the error message. Raises TavError if it was made for another model.
    """
    listing = "\n".join(shapes)
    made_for = next((model for pattern, model in MADE_FOR if re.search(pattern, listing, re.MULTILINE)), None)
    # the width of the text embeddings that it attends to, or of the text encoder that it changes
    to_text = r"attn2[._](processor[._])?to_k([._](lora_|lora\.)(down|A)(\.default)?)?\.weight$"
    of_text = r"^(lora_te1?_|text_encoder\.).*(q_proj|to_q).*(down|lora_A)(\.default)?\.weight$"
    for pattern in (to_text, of_text):
        width = next((_width(shape) for key, shape in shapes.items() if re.search(pattern, key)), None)
        made_for = made_for or WIDTHS.get(width)
    if made_for not in (None, *NAMES):
        raise TavError(f"{name} is a {kind} for {made_for}: choose one made for {SUPPORTED}.")
    return made_for


def check_addition(family: str | None, checkpoint: str, name: str, kind: str) -> None:
    """Raises TavError if a LoRA or ControlNet and the checkpoint are of different families."""
    if family not in (None, checkpoint):
        raise TavError(
            f"{name} is a {kind} for {NAMES[family]}, but the checkpoint is {NAMES[checkpoint]}: choose one made for "
            f"{NAMES[checkpoint]}."
        )


def heads_of(family: str | None, channels: Sequence[int]) -> int | list[int]:
    """The number of attention heads for levels of these widths, which diffusers calls attention_head_dim.

    The weights do not show it: Stable Diffusion 1.x has 8 heads everywhere, 2.x has one per 64 channels.
    """
    return 8 if family == "sd1" else [width // 64 for width in channels]


def _width(shape: Sequence[int]) -> int | None:
    """The number of inputs of a layer whose weight has this shape; None if it is not the shape of one."""
    return shape[1] if len(shape) > 1 else None


def _family(name: str, in_channels: object, context: object, linear: bool, labelled: bool) -> str:
    if context in (1280, 2048):
        raise _refusal(name, "Stable Diffusion XL" if context == 2048 else "the refiner of Stable Diffusion XL")
    if in_channels != 4:
        known = INPUTS.get(in_channels) if isinstance(in_channels, int) else None
        raise _refusal(name, f"{known or 'another model'} ({shown(in_channels)} input channels)")
    if labelled:
        raise _refusal(name, "Stable Diffusion unCLIP")
    return "sd2" if linear or context == 1024 else "sd1"


def _refusal(name: str, other: str) -> TavError:
    return TavError(f"{name} looks like {other}: choose a full checkpoint of {SUPPORTED} instead.")
