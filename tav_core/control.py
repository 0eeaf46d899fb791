"""Control by images (poses, depth, edges): ControlNets and T2I-Adapters for an inflated network.

Both process each frame separately, as they were trained to (Zhang et al. 2023, arXiv 2302.05543; Mou et al. 2023,
arXiv 2302.08453); their residuals enter the inflated network at the same layers as in the 2-D one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from diffusers import ControlNetModel, T2IAdapter
from einops import rearrange, repeat
from torch import Tensor

from .errors import TavError, need
from .prompt import Prompt, as_prompt
from .video.pixels import to_float

LAST_TIMESTEP = 999


@dataclass(frozen=True, eq=False)
class Control:
    """A control network and its control images.

    images: (f, 3, h, w), float in 0..1 or uint8 in 0..255, which take a quarter of the memory; one per frame or one for
        all, of the video's size in pixels.
    strength: scales the residuals; 0 turns the control off.
    start, end: the part of sampling in which it acts, from 0 (noise) to 1 (the clean video).
    is_part: whether it is that of a window; then an adapter's features are not kept, as those of all windows together
        would take more memory than the frames.
    """

    network: ControlNetModel | T2IAdapter
    images: Tensor
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    is_part: bool = False

    def __post_init__(self):
        shape = tuple(self.images.shape)
        if len(shape) != 4 or shape[1] != 3:
            raise TavError(f"Control images must be (f, 3, h, w) in 0..1, got {shape}; move the channels to the front.")
        check_control(self.strength, self.start, self.end)

    def weights(self, timesteps: Tensor) -> Tensor:
        """The scale of the residuals at each sample's timestep, (b,) -> (b,): the strength, or 0 outside start..end."""
        # start and end map to timesteps by ComfyUI's rule, so that they mean the same in a graph and in the shell
        acts = (timesteps <= LAST_TIMESTEP * (1 - self.start)) & (timesteps >= LAST_TIMESTEP * (1 - self.end))
        return self.strength * acts

    def on_frames(self, frames: Sequence[int]) -> "Control":
        """The control of these frames alone; always the same object for the same frames, so that predictors that share
        a control still do."""
        frames = tuple(frames)
        if len(self.images) == 1 or frames == tuple(range(len(self.images))):
            return self
        if frames not in self._parts:
            self._parts[frames] = self.cut(frames)
        return self._parts[frames]

    def cut(self, frames: Sequence[int]) -> "Control":
        """A new control of these frames alone."""
        return self if len(self.images) == 1 else replace(self, images=self.images[list(frames)], is_part=True)

    @cached_property
    def _parts(self) -> dict[tuple[int, ...], "Control"]:
        return {}

    @property
    def features(self) -> list[Tensor]:
        """A T2I-Adapter's features of the images, (f, c, h, w) per level; independent of noise and prompt."""
        return self._computed_features() if self.is_part else self._features

    @cached_property
    def _features(self) -> list[Tensor]:
        return self._computed_features()

    def _computed_features(self) -> list[Tensor]:
        images = to_float(self.images)
        if self.network.config.in_channels == 1:  # adapters for sketches or depth may take a single grey channel
            images = images.mean(1, keepdim=True)
        return self.network(images.to(self.network.device, self.network.dtype))


def check_control(strength: float, start: float, end: float) -> None:
    """Raises TavError for settings that are out of range."""
    need(0 <= strength <= 10, "The strength of a control", strength, "from 0 to 10")
    need(
        0 <= start <= end <= 1, "The range of a control", f"{start:g}:{end:g}", "START:END with 0 <= START <= END <= 1"
    )


@torch.no_grad()
def residuals(
    controls: Sequence[Control],
    latents: Tensor,
    timesteps: Tensor | int,
    prompt_embeds: Tensor | Prompt,
    frames: Sequence[int] | None = None,
) -> dict[str, Tensor | tuple | list]:
    """Computes the residual arguments of InflatedUNet for these noisy latents.

    latents: (b, c, f, h, w); timesteps: (b,), (1,) or an int; prompt_embeds: as InflatedUNet takes them.
    frames: which frames of the clip the latents are, if they are not all; controls and prompt are the whole clip's.
    """
    prompt = as_prompt(prompt_embeds)
    if frames is not None:
        # not kept: tuning draws ever other windows
        controls, prompt = [control.cut(frames) for control in controls], prompt.on_frames(frames)
    batch, frames = len(latents), latents.shape[2]
    timesteps = torch.as_tensor(timesteps, device=latents.device).reshape(-1).expand(batch)
    skips, middles, features = [], [], []
    for control in controls:
        _check_images(control, latents)
        weights = control.weights(timesteps)
        if not weights.any():
            continue
        weights = weights.repeat_interleave(frames)[:, None, None, None]
        if isinstance(control.network, T2IAdapter):
            features.append([weights.to(part) * _per_frame(part, batch, frames) for part in control.features])
        else:
            images = _per_frame(to_float(control.images), batch, frames)
            down, middle = _controlnet_residuals(control.network, latents, timesteps, prompt, images)
            skips.append([weights.to(part) * part for part in down])
            middles.append(weights.to(middle) * middle)
    arguments = {}
    if skips:
        arguments["down_block_additional_residuals"] = tuple(map(sum, zip(*skips, strict=True)))
        arguments["mid_block_additional_residual"] = sum(middles)
    if features:
        arguments["down_intrablock_additional_residuals"] = list(map(sum, zip(*features, strict=True)))
    return arguments


def _controlnet_residuals(
    network: ControlNetModel, latents: Tensor, timesteps: Tensor, prompt: Prompt, images: Tensor
) -> tuple[list[Tensor], Tensor]:
    arguments = prompt.arguments(latents, network.dtype)
    text = arguments.pop("encoder_hidden_states")
    return network(
        rearrange(latents, "b c f h w -> (b f) c h w").to(network.dtype),
        timesteps.repeat_interleave(latents.shape[2]),
        encoder_hidden_states=text.repeat_interleave(len(images) // len(text), 0),
        controlnet_cond=images.to(latents.device, network.dtype),
        **arguments,
        return_dict=False,
    )


def _per_frame(images: Tensor, batch: int, frames: int) -> Tensor:
    """Repeats images, or features of them, for every frame of every sample: (f or 1) c h w -> (b f) c h w."""
    return repeat(images.expand(frames, -1, -1, -1), "f c h w -> (b f) c h w", b=batch)


def _check_images(control: Control, latents: Tensor) -> None:
    count, _, height, width = control.images.shape
    frames, rows, columns = latents.shape[2:]
    if count not in (1, frames):
        raise TavError(f"Got {count} control images for {frames} frames; give one per frame, or one for all.")
    if (height, width) != (8 * rows, 8 * columns):
        raise TavError(
            f"The control images are {width}x{height}, but the video is {8 * columns}x{8 * rows}; give images of "
            "that size."
        )
