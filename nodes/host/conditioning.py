"""What tuning requires of a CONDITIONING: one prompt, for the whole video and all timesteps."""

from torch import Tensor

from ...tav_core.errors import TavError

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


def only_prompt(conditioning: list) -> tuple[Tensor, dict]:
    """The prompt embeddings, (1, n, d) or one prompt per frame (f, n, d), and the entry's other options."""
    advice = "connect CLIP Text Encode with the prompt that describes the clip"
    if len(conditioning) != 1:
        raise TavError(f"Tuning needs one prompt, but the conditioning combines {len(conditioning)}; {advice}.")
    prompt_embeds, options = conditioning[0]
    for key, name in PARTIAL.items():
        whole = {"start_percent": 0.0, "end_percent": 1.0}.get(key)
        if key in options and options[key] is not None and options[key] != whole:
            raise TavError(f"Tuning needs a prompt for the whole video, but the conditioning has {name}; {advice}.")
    return prompt_embeds, options
