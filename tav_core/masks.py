"""Where an edit may change the clip: masks for `sample`, from images or from where a prompt's word is looked for."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .errors import TavError, need
from .inflate import transformer_blocks
from .layout import attention_maps
from .lend import lent
from .prediction import NoisePredictor
from .source import SourcePath

LOOKS = 10  # noise levels at which the source is looked at
THRESHOLD = 0.3  # of the largest value in a frame, as in FateZero (Qi et al. 2023, arXiv 2303.09535)


def latent_mask(mask: Tensor, frames: int, size: tuple[int, int], grow: int = 0) -> Tensor:
    """A mask for `sample`, (1, 1, f, h, w), soft where it cuts through a latent.

    mask: (f or 1, height, width) in 0..1, of the video's size in pixels or smaller; 1 where the edit may change it.
    size: (h, w) of the latents. grow: by how many pixels the mask is dilated, because a tight one cuts off new shapes;
        of the mask's own pixels.
    Raises TavError for another number of frames, or another shape.
    """
    if mask.ndim != 3 or len(mask) not in (1, frames):
        raise TavError(
            f"The mask is {tuple(mask.shape)}, but the clip has {frames} frames; give one mask, or one per frame, as "
            "(frames, height, width)."
        )
    need(grow >= 0, "mask_grow", grow, "at least 0 pixels")
    grown = F.max_pool2d(mask[:, None].float().clamp(0, 1), 2 * grow + 1, stride=1, padding=grow)
    soft = F.interpolate(grown, size, mode="area") if mask.shape[1] >= size[0] else F.interpolate(grown, size)
    return rearrange(soft.expand(frames, -1, -1, -1), "f c h w -> 1 c f h w")


@torch.no_grad()
def word_mask(
    predict_source: NoisePredictor, path: SourcePath, places: Sequence[int], threshold: float = THRESHOLD
) -> Tensor:
    """Where the network looks for a word in the clip: (f, h, w) of 0 and 1, in the latents' size.

    predict_source: with the clip's prompt, on a path of latents (1, c, f, h, w). places: the word's positions in it.
    threshold: 0..1, of the largest value in each frame.
    """
    heads = {name: block.attn2.heads for name, block in transformer_blocks(predict_source.unet.unet).items()}
    maps = []
    with lent(predict_source.unet) as loan:
        for timestep in looked_at(path.timesteps):
            with loan.recording(structure=False, layout=True):
                predict_source(path.at(timestep), timestep)
            maps.append(word_map(loan.kept, heads, places, tuple(path.clean.shape[-2:])))
    return above_threshold(maps, threshold)


def looked_at(timesteps: Sequence[int]) -> list[int]:
    """The timesteps at which a word is looked for: at most LOOKS, spread evenly over those of a path."""
    count = min(LOOKS, len(timesteps))
    return [timesteps[(2 * index + 1) * len(timesteps) // (2 * count)] for index in range(count)]


def word_map(
    kept: Mapping[str, Tensor], heads: Mapping[str, int], places: Sequence[int], size: tuple[int, int]
) -> Tensor:
    """How much each position attends to a word, (f, h, w), averaged over heads and layers.

    kept: queries and keys of cross-attention, as a `Loan` records them. heads: of each transformer block, by its path.
    """
    maps = []
    for path, count in heads.items():
        query, key = (kept[f"{path}.attn2.{part}"] for part in ("to_q", "to_k"))
        rows = round((query.shape[1] * size[0] / size[1]) ** 0.5)
        if 4 * rows < size[0]:  # too coarse to tell where something is
            continue
        columns = query.shape[1] // rows
        found = attention_maps(query, key.expand(len(query), -1, -1), count)[..., list(places)].sum(-1).mean(1)
        found = rearrange(found, "f (h w) -> f 1 h w", h=rows, w=columns).float()
        maps.append(F.interpolate(found, size, mode="bilinear")[:, 0])
    return torch.stack(maps).mean(dim=0)


def above_threshold(maps: Sequence[Tensor], threshold: float) -> Tensor:
    """Averages maps (f, h, w), smooths them over neighbouring frames, and keeps what exceeds the threshold."""
    need(0 < threshold < 1, "The threshold of a mask", threshold, "between 0 and 1")
    mean = torch.stack(list(maps)).mean(dim=0)
    padded = torch.cat([mean[:1], mean, mean[-1:]])
    smooth = (padded[:-2] + 2 * mean + padded[2:]) / 4
    low, high = (reduce(smooth.flatten(1), dim=1)[:, None, None] for reduce in (torch.amin, torch.amax))
    return (smooth - low > threshold * (high - low)).float()
