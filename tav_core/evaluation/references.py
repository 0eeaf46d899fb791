"""Videos whose worth is known, judged beside the variants: the ceiling of each figure, and what must score badly."""

from collections.abc import Callable

from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..world.judge import Judge

Reference = Callable[[Judge, Tensor, Checkpoint], Tensor]
"""From an edit's judge, the source (f, 128, 128, 3) in 0..1 and the checkpoint to the video that is judged."""


def ideal(judge: Judge, source: Tensor, checkpoint: Checkpoint) -> Tensor:
    return judge.ideal


def ideal_through_vae(judge: Judge, source: Tensor, checkpoint: Checkpoint) -> Tensor:
    return checkpoint.decode_video(checkpoint.encode_video(judge.ideal))


def frozen(judge: Judge, source: Tensor, checkpoint: Checkpoint) -> Tensor:
    """The ideal's middle frame, all the time."""
    return judge.ideal[judge.num_frames // 2].expand_as(judge.ideal)


def unedited(judge: Judge, source: Tensor, checkpoint: Checkpoint) -> Tensor:
    return source


CEILING: dict[str, Reference] = {"ideal": ideal, "ideal-vae": ideal_through_vae}
FLOOR: dict[str, Reference] = {"frozen": frozen, "source": unedited}
TITLES = {
    "ideal": "what the world's own drawing shows for the edit",
    "ideal-vae": "the same, encoded and decoded by the VAE",
    "frozen": "one frame of the ideal, all the time",
    "source": "the clip itself, not edited",
}
