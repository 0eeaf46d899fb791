"""Where an edit may change the clip: masks for `sample`, from images or from where a prompt's word is looked for."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .errors import TavError, need
from .inflate import transformer_blocks
from .layout import attention_maps
from .lend import lent
from .prediction import NoisePredictor
from .prompt import as_prompt
from .source import SourcePath
from .windows import Windows, per_window

LOOKS = 10  # noise levels at which the source is looked at
THRESHOLD = 0.3  # of the range of values in a frame, as in FateZero (Qi et al. 2023, arXiv 2303.09535)


def latent_mask(mask: Tensor, frames: int, size: tuple[int, int], grow: int = 0) -> Tensor:
    """A mask for `sample`, (1, 1, f, h, w), soft where it cuts through a latent.

    mask: (f or 1, height, width) in 0..1, of the video's size in pixels, or of its aspect ratio; 1 where the edit may
        change it.
    size: (h, w) of the latents. grow: by how many of the mask's pixels it is dilated, because a tight one cuts off new
        shapes.
    Raises TavError for another number of frames, or another shape.
    """
    if mask.ndim != 3 or len(mask) not in (1, frames):
        raise TavError(
            f"The mask is {tuple(mask.shape)}, but the clip has {frames} frames; give one mask, or one per frame, as "
            "(frames, height, width)."
        )
    need(grow >= 0, "mask_grow", grow, "at least 0 pixels")
    height, width = mask.shape[1:]
    if abs(height * size[1] - width * size[0]) > max(size) + max(height, width) // 8:  # more than rounding
        raise TavError(
            f"The mask is {width}x{height}, but the video is {8 * size[1]}x{8 * size[0]}, with a different aspect "
            "ratio; give a mask of that size."
        )
    grown = mask[:, None].float().clamp(0, 1)
    for kernel in ((2 * grow + 1, 1), (1, 2 * grow + 1)) if grow else ():  # along each axis, which costs far less
        grown = F.max_pool2d(grown, kernel, stride=1, padding=(kernel[0] // 2, kernel[1] // 2))
    soft = F.interpolate(grown, size, mode="area") if mask.shape[1] >= size[0] else F.interpolate(grown, size)
    return rearrange(soft.expand(frames, -1, -1, -1), "f c h w -> 1 c f h w")


@torch.no_grad()
def word_mask(
    predict_source: NoisePredictor,
    path: SourcePath,
    places: Sequence[int],
    threshold: float = THRESHOLD,
    windows: Windows = Windows(),
) -> Tensor:
    """Where the network looks for a word in the clip: (f, 8 h, 8 w) of 0 and 1, in pixels.

    predict_source: with the clip's prompt, on a path of latents (1, c, f, h, w). places: the word's positions in it.
    threshold: as in `above_threshold`. windows: how many frames the network sees at once.
    """
    heads = {name: block.attn2.heads for name, block in transformer_blocks(predict_source.unet.unet).items()}
    count, size = path.clean.shape[-3], tuple(path.clean.shape[-2:])
    device = as_prompt(predict_source.prompt_embeds).embeds.device
    with lent(predict_source.unet) as loan:

        def look(timestep: int, frames: list[int]) -> Tensor:
            with loan.recording(structure=False, layout=True):
                predict_source.on_frames(frames)(path.at(timestep)[:, :, frames].to(device), timestep)
            return word_map(loan.kept, heads, places, size)

        maps = [per_window(windows, count, partial(look, timestep)) for timestep in looked_at(path.timesteps)]
    return above_threshold(maps, threshold)


def in_pixels(mask: Tensor) -> Tensor:
    """A mask (f, h, w) of the latents' size, (f, 8 h, 8 w)."""
    return mask.repeat_interleave(8, 1).repeat_interleave(8, 2)


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
        rows, columns = size
        while rows * columns > query.shape[1]:  # as the network's own convolutions halve
            rows, columns = -(-rows // 2), -(-columns // 2)
        if rows * columns != query.shape[1] or 4 * rows < size[0]:  # too coarse to tell where something is
            continue
        found = attention_maps(query, key.expand(len(query), -1, -1), count)[..., list(places)].sum(-1).mean(1)
        found = rearrange(found, "f (h w) -> f 1 h w", h=rows, w=columns).float()
        maps.append(F.interpolate(found, size, mode="bilinear")[:, 0])
    return torch.stack(maps).mean(dim=0)


def above_threshold(maps: Sequence[Tensor], threshold: float) -> Tensor:
    """Averages maps (f, h, w), smooths them over neighbouring frames, and masks what exceeds the threshold, in pixels.

    threshold: between 0 and 1, of the range of values in each frame. Raises TavError if no place stands out.
    """
    need(0 < threshold < 1, "The threshold of a mask", threshold, "between 0 and 1")
    mean = torch.stack(list(maps)).mean(dim=0)
    padded = torch.cat([mean[:1], mean, mean[-1:]])
    smooth = (padded[:-2] + 2 * mean + padded[2:]) / 4
    low, high = (reduce(smooth.flatten(1), dim=1)[:, None, None] for reduce in (torch.amin, torch.amax))
    mask = (smooth - low > threshold * (high - low)).float()
    if not mask.any():
        raise TavError("The network looks for these words nowhere in particular; choose another word of the prompt.")
    return in_pixels(mask)
