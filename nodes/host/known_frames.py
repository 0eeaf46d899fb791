"""Known frames on a MODEL: what its added first convolution sees in a call."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from ...tav_core.errors import TavError
from ...tav_core.known_frames import Known
from .added import AddedWeights
from .windows import FRAMES_SEEN

KNOWN = "tune_a_video_known"
"""Key of the transformer options: the Known of the whole video that is sampled, as the network sees its latents."""


@contextmanager
def showing_known(added: AddedWeights | None, options: Mapping, size: tuple[int, int, int]) -> Iterator[None]:
    """In this context, the network is shown those of the known frames that are among a call's.

    size: frames, height and width of the latents in this call.
    """
    known = options.get(KNOWN)
    blocks = added.blocks if added is not None and known is not None else ()
    convolutions = [block.known for block in blocks if hasattr(block, "known")]
    given = _of_call(known, options, size).as_input() if convolutions else None
    try:
        for convolution in convolutions:
            convolution.given = given
        yield
    finally:
        for convolution in convolutions:
            convolution.given = None


def _of_call(known: Known, options: Mapping, size: tuple[int, int, int]) -> Known:
    frames = range(len(known.mask))
    if FRAMES_SEEN in options:
        frames = options[FRAMES_SEEN]
    elif window := options.get("context_window"):  # safe: the host's own windows, with which it slices all else, too
        frames = window.get_tensor(torch.tensor(frames), dim=0).tolist()
    known = known.on_frames(frames)
    if known.latents.shape[2:] != size:
        raise TavError(
            f"The known frames are {tuple(known.latents.shape[2:])}, but the MODEL was given a part of {size} (frames, "
            "height, width); remove areas from the prompts, and nodes that divide frames."
        )
    return known
