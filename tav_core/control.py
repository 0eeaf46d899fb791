"""Control by pictures (poses, depth, edges): the say of ControlNets and T2I-Adapters in an inflated network.

Both look at each frame by itself, as they were trained (Zhang et al. 2023, arXiv 2302.05543; Mou et al. 2023,
arXiv 2302.08453); what they add enters the inflated network where it enters the 2-D one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from diffusers import ControlNetModel, T2IAdapter
from einops import rearrange, repeat
from torch import Tensor

from .errors import TavError, need

LAST_TIMESTEP = 999


@dataclass(frozen=True, eq=False)
class Control:
    """A network that looks at pictures, and those that it looks at.

    images: (f, 3, h, w) in 0..1, one per frame, or a single one for all; of the size that the video is decoded to.
    strength: scales all that the network adds; 0 is without it.
    start, end: the part of sampling in which it acts, 0 (noise) to 1 (the clean video).
    """

    network: ControlNetModel | T2IAdapter
    images: Tensor
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        shape = tuple(self.images.shape)
        if len(shape) != 4 or shape[1] != 3:
            raise TavError(
                f"Control pictures must be (f, 3, h, w) in 0..1, got {shape}; move the colours to the front."
            )
        check_control(self.strength, self.start, self.end)

    def weights(self, timesteps: Tensor) -> Tensor:
        """What each sample's share is scaled by at its timestep, (b,) -> (b,): the strength, or 0 out of the range."""
        # a part of sampling means a timestep by ComfyUI's rule, so that a graph and the shell mean the same
        acts = (timesteps <= LAST_TIMESTEP * (1 - self.start)) & (timesteps >= LAST_TIMESTEP * (1 - self.end))
        return self.strength * acts

    @cached_property
    def features(self) -> list[Tensor]:
        """What a T2I-Adapter sees in the pictures, level by level, (f, c, h, w); neither noise nor text changes it."""
        # one that was trained on sketches or depth may look at a single grey channel
        grey = self.network.config.in_channels == 1
        pictures = self.images.mean(1, keepdim=True) if grey else self.images
        return self.network(pictures.to(self.network.device, self.network.dtype))


def check_control(strength: float, start: float, end: float) -> None:
    """Raises TavError for settings out of their range."""
    need(0 <= strength <= 10, "The strength of a control", strength, "from 0 to 10")
    need(
        0 <= start <= end <= 1, "The range of a control", f"{start:g}:{end:g}", "START:END with 0 <= START <= END <= 1"
    )


@torch.no_grad()
def residuals(
    controls: Sequence[Control], latents: Tensor, timesteps: Tensor | int, prompt_embeds: Tensor
) -> dict[str, Tensor | tuple | list]:
    """The residual arguments that an InflatedUNet takes with these noisy latents.

    latents: (b, c, f, h, w); timesteps: (b,), (1,) or an int; prompt_embeds: (b, n, d) or (b, f, n, d), b may be 1.
    """
    batch, frames = len(latents), latents.shape[2]
    timesteps = torch.as_tensor(timesteps, device=latents.device).reshape(-1).expand(batch)
    skips, middles, features = [], [], []
    for control in controls:
        _check_pictures(control, latents)
        weights = control.weights(timesteps)
        if not weights.any():
            continue
        weights = weights.repeat_interleave(frames)[:, None, None, None]
        if isinstance(control.network, T2IAdapter):
            features.append([weights.to(part) * _per_frame(part, batch, frames) for part in control.features])
        else:
            pictures = _per_frame(control.images, batch, frames)
            down, middle = _of_controlnet(control.network, latents, timesteps, prompt_embeds, pictures)
            skips.append([weights.to(part) * part for part in down])
            middles.append(weights.to(middle) * middle)
    told = {}
    if skips:
        told["down_block_additional_residuals"] = tuple(map(sum, zip(*skips, strict=True)))
        told["mid_block_additional_residual"] = sum(middles)
    if features:
        told["down_intrablock_additional_residuals"] = list(map(sum, zip(*features, strict=True)))
    return told


def _of_controlnet(
    network: ControlNetModel, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor, pictures: Tensor
) -> tuple[list[Tensor], Tensor]:
    batch, _, frames, _, _ = latents.shape
    text = prompt_embeds.expand(batch, *prompt_embeds.shape[1:])
    text = rearrange(text, "b f n d -> (b f) n d") if text.ndim == 4 else text.repeat_interleave(frames, 0)
    return network(
        rearrange(latents, "b c f h w -> (b f) c h w").to(network.dtype),
        timesteps.repeat_interleave(frames),
        encoder_hidden_states=text.to(network.dtype),
        controlnet_cond=pictures.to(latents.device, network.dtype),
        return_dict=False,
    )


def _per_frame(pictures: Tensor, batch: int, frames: int) -> Tensor:
    """One for each frame of each sample: (f or 1) c h w -> (b f) c h w."""
    return repeat(pictures.expand(frames, -1, -1, -1), "f c h w -> (b f) c h w", b=batch)


def _check_pictures(control: Control, latents: Tensor) -> None:
    count, _, height, width = control.images.shape
    frames, rows, columns = latents.shape[2:]
    if count not in (1, frames):
        raise TavError(f"Got {count} control pictures for {frames} frames; give one per frame, or one for all.")
    if (height, width) != (8 * rows, 8 * columns):
        raise TavError(
            f"The control pictures are {width}x{height}, and the video is {8 * columns}x{8 * rows}; give pictures of "
            "that size."
        )
