"""What tuning and the source of an edit require of a CONDITIONING: one prompt, for the whole video at all steps."""

from collections.abc import Mapping

from comfy.model_patcher import ModelPatcher
from comfy.sampler_helpers import convert_cond
from comfy.samplers import encode_model_conds
from torch import Tensor

from ...tav_core.errors import TavError
from ...tav_core.prompt import Prompt

WHOLE = {"start_percent": 0.0, "end_percent": 1.0}
PARTIAL = {
    "area": "an area",
    "mask": "a mask",
    "start_percent": "a range of timesteps",
    "end_percent": "a range of timesteps",
    "clip_start_percent": "a schedule",
    "hooks": "hooks",
    "gligen": "GLIGEN boxes",
    "default": "a default for uncovered areas",
}


def only_prompt(conditioning: list, purpose: str) -> dict:
    """The options of a CONDITIONING that is one prompt for the whole video; for any other, raises a TavError.

    purpose: what needs it, as the error's first words.
    """
    advice = "connect CLIP Text Encode with the prompt that describes the clip"
    if len(conditioning) != 1:
        raise TavError(f"{purpose} needs one prompt, but the conditioning combines {len(conditioning)}; {advice}.")
    ((_, options),) = conditioning
    for key, name in PARTIAL.items():
        if options.get(key) is not None and options[key] != WHOLE.get(key, ...):
            raise TavError(f"{purpose} needs a prompt for the whole video at all steps, but it has {name}; {advice}.")
    return options


def check_prompts(conditioning: list, num_frames: int) -> None:
    """Raises TavError for neither one prompt nor one per frame; the host would silently repeat or drop some."""
    for embeds, _ in conditioning:
        if len(embeds) not in (1, num_frames):
            raise TavError(f"Got {len(embeds)} prompts for {num_frames} frames; give one per frame, or one for all.")


def conditions_of(conditioning: list, patcher: ModelPatcher, samples: Tensor) -> dict[str, Tensor]:
    """What the MODEL and its ControlNets take of a prompt, by the host's names; each (1, ...), or (f, ...) per frame.

    c_crossattn: the prompt embeddings. crossattn_controlnet: other ones for ControlNets. y: the vector that Stable
    Diffusion XL adds to the timestep. samples: (f, c, h, w).
    """
    # safe: how the host itself asks a model for its conditions, before it samples
    device, conds = samples.device, convert_cond(conditioning)
    given = encode_model_conds(patcher.model.extra_conds, conds, samples, device, "positive")[0]["model_conds"]
    if "y" in given:
        given["y"] = given["y"].process_cond(batch_size=len(given["c_crossattn"].cond))
    return {name: given[name].cond for name in ("c_crossattn", "crossattn_controlnet", "y") if name in given}


def prompt_of(conditions: Mapping[str, Tensor]) -> Prompt:
    """These conditions as the network of `diffusers_unet` takes them: for all frames, or a prompt for each."""
    labels = {"class_labels": conditions["y"]} if "y" in conditions else {}
    prompt = Prompt(conditions["c_crossattn"], labels)
    return prompt if len(prompt.embeds) == 1 else prompt[None]
