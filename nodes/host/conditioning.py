"""What tuning expects of a CONDITIONING: one sentence, for the whole picture and all timesteps."""

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
    "default": "a default for what others leave free",
}


def only_sentence(conditioning: list) -> tuple[Tensor, dict]:
    """The text embedding (1, n, d), or (f, n, d) of a text per frame, and the rest of the one entry."""
    advice = "connect CLIP Text Encode with the sentence that describes the clip"
    if len(conditioning) != 1:
        raise TavError(f"Tuning needs one sentence, and the conditioning combines {len(conditioning)}; {advice}.")
    prompt_embeds, options = conditioning[0]
    for key, name in PARTIAL.items():
        whole = {"start_percent": 0.0, "end_percent": 1.0}.get(key)
        if key in options and options[key] is not None and options[key] != whole:
            raise TavError(f"Tuning needs a sentence for all of the video, and the conditioning has {name}; {advice}.")
    return prompt_embeds, options
