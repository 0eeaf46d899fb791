"""A text-to-image UNet that treats its batch as the frames of a video (paper, section 3.2)."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from einops import rearrange
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .addition import INPUT, Addition, block_with
from .attention import FrameAttnProcessor, FrameCount, TextAttnProcessor
from .errors import TavError
from .families import SUPPORTED, family_of_config
from .inflation import Inflation, difference_names
from .known_frames import Known
from .light_layers import lighten, restore
from .prompt import Prompt, as_prompt


def inflate(unet: UNet2DConditionModel, inflation: Inflation = Inflation(), **changes) -> "InflatedUNet":
    """Inflates a text-to-image UNet to one for videos, in place (Tune-A-Video, section 3.2).

    changes: fields of `Inflation`; `inflate(unet, attention="first")` is short for
    `inflate(unet, Inflation(attention="first"))`. Added modules initially add zero, so for identical
    frames the inflated network gives the output of the 2-D one.

    Raises TavError for a network that cannot be inflated, or already is.
    """
    inflation = replace(inflation, **changes)
    _check(unet)
    return InflatedUNet(unet, inflation)


class InflatedUNet(nn.Module):
    """A UNet for video latents, created by `inflate`. `unet` is the 2-D network itself, modified in place."""

    def __init__(self, unet: UNet2DConditionModel, inflation: Inflation):
        super().__init__()
        self.unet, self.inflation = unet, inflation
        self.count = FrameCount()
        self.base_queries: dict[str, Tensor] | None = None
        self._processors = dict(unet.attn_processors)
        self._norms = _residual_norms(unet) if inflation.group_norm == "video" else {}
        for block in transformer_blocks(unet).values():
            block.attn1.set_processor(FrameAttnProcessor(inflation.attention, self.count))
            block.attn2.set_processor(TextAttnProcessor())
        generator = torch.Generator().manual_seed(0)  # so that inflation is deterministic
        self._added = [
            (block, parts, _add_residual(addition, block, parts, self.count))
            for addition in inflation.additions
            for block, parts in _add_parts(unet, addition, generator)
        ]
        for name, norm in self._norms.items():
            _replace(unet, name, VideoGroupNorm(norm, self.count))
        lighten(unet)
        unet.to(memory_format=torch.channels_last)  # folding frames and flattening images then copies nothing
        self.train(unet.training)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor | int,
        prompt_embeds: Tensor | Prompt,
        *,
        known: Known | None = None,
        down_block_additional_residuals: tuple[Tensor, ...] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        down_intrablock_additional_residuals: list[Tensor] | None = None,
    ) -> Tensor:
        """Predicts noise or velocity from noisy video latents; same shape as the latents.

        latents: (b, c, f, h, w), already times the VAE's scaling factor.
        timestep: 0..999, an int or a tensor (), (1,) or (b,).
        prompt_embeds: (b, n, d), or (b, f, n, d) for a prompt per frame; b may be 1 for all samples. A network that
            takes more of a prompt needs a `Prompt`.
        known: frames that are known, for a network inflated with known_frames; None for none.
        The residuals of ControlNets and T2I-Adapters have their frames folded as (b f), as diffusers returns them.

        Computes in the precision of the frozen weights, even if the trained ones are float32, or in that of the
        caller's autocast.
        """
        prompt = as_prompt(prompt_embeds)
        _check_inputs(self.unet, latents, timestep, prompt.embeds)
        _check_known(self.inflation, latents, known)
        batch, _, frames, _, _ = latents.shape
        self.count.num_frames = frames
        timestep = torch.as_tensor(timestep, device=latents.device).reshape(-1).expand(batch)
        folded = rearrange(latents, "b c f h w -> (b f) c h w").to(self.dtype, memory_format=torch.channels_last)
        adapter = down_intrablock_additional_residuals
        with self._one_precision(), self._shown(known):
            prediction = self.unet(
                folded,
                timestep.repeat_interleave(frames),
                **prompt.arguments(latents, self.dtype),
                down_block_additional_residuals=down_block_additional_residuals,
                mid_block_additional_residual=mid_block_additional_residual,
                down_intrablock_additional_residuals=adapter and list(adapter),  # diffusers empties this list
                return_dict=False,
            )[0]
        return rearrange(prediction, "(b f) c h w -> b c f h w", f=frames).to(latents.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the frozen weights, in which the network computes."""
        return self.unet.conv_in.weight.dtype

    def _one_precision(self):
        trained = next(p for name, p in self.unet.named_parameters() if self.inflation.trains(name))
        if trained.dtype == self.dtype or torch.is_autocast_enabled(trained.device.type):
            return nullcontext()
        return torch.autocast(trained.device.type, dtype=self.dtype)

    @contextmanager
    def _shown(self, known: Known | None) -> Iterator[None]:
        """Shows known frames to the network's first convolution."""
        if not self.inflation.known_frames:
            yield
            return
        convolution = self.unet.get_submodule(INPUT).known
        convolution.given = known and known.as_input()
        try:
            yield
        finally:
            convolution.given = None

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        """Has the keys and shapes of the original's UNet3DConditionModel: the 2-D ones, attn_temp.* and norm_temp.*.

        Convolution weights are channels-last; make them contiguous before saving them with safetensors.
        """
        return self.unet.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict, *args, **kwargs):
        """Loads a state dict of this class or of the original's UNet3DConditionModel."""
        self.base_queries = None
        return self.unet.load_state_dict(state_dict, *args, **kwargs)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """What tuning trains; in the paper both query projections and temporal attention, 7 tensors per block."""
        return {name: p for name, p in self.unet.named_parameters() if self.inflation.trains(name)}

    def keep_base_queries(self) -> None:
        """Copies the query projections to `base_queries`, once, before tuning or tuned weights first change them."""
        if self.base_queries is None:
            parameters = self.trainable_parameters()
            self.base_queries = {name: parameters[name].detach().clone() for name in difference_names(parameters)}

    def deflate(self) -> UNet2DConditionModel:
        """Undoes the inflation, in place; the query projections keep their current values."""
        for parameter in self.trainable_parameters().values():
            parameter.data = parameter.data.to(self.dtype)
        for block, parts, hook in self._added:
            hook.remove()
            for name in parts:
                delattr(block, name)
        for name, norm in self._norms.items():
            _replace(self.unet, name, norm)
        self.unet.set_attn_processor(self._processors)
        restore(self.unet)
        return self.unet.to(memory_format=torch.contiguous_format)


class VideoGroupNorm(nn.GroupNorm):
    """GroupNorm with one mean and variance for all frames of a video; shares the weights of the per-frame norm."""

    def __init__(self, norm: nn.GroupNorm, count: FrameCount):
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, device="meta")
        self.weight, self.bias, self.count = norm.weight, norm.bias, count

    def forward(self, hidden_states: Tensor) -> Tensor:
        # in channels-last memory, stacking the frames into one tall image copies nothing
        frames, height = self.count.num_frames, hidden_states.shape[-2]
        tall = rearrange(hidden_states, "(b f) c h w -> b c (f h) w", f=frames)
        return rearrange(super().forward(tall), "b c (f h) w -> (b f) c h w", h=height)


def transformer_blocks(unet: nn.Module) -> dict[str, BasicTransformerBlock]:
    """The transformer blocks, by module path."""
    return {name: module for name, module in unet.named_modules() if isinstance(module, BasicTransformerBlock)}


def _residual_norms(unet: nn.Module) -> dict[str, nn.GroupNorm]:
    """The GroupNorms of the residual blocks and of the output, by path; those inside transformers stay per frame."""
    transformers = [f"{name}." for name, m in unet.named_modules() if isinstance(m, Transformer2DModel)]
    norms = {name: module for name, module in unet.named_modules() if isinstance(module, nn.GroupNorm)}
    return {name: norm for name, norm in norms.items() if not name.startswith(tuple(transformers))}


def _add_parts(
    unet: nn.Module, addition: Addition, generator: torch.Generator
) -> Iterator[tuple[nn.Module, dict[str, nn.Module]]]:
    """Adds a module's parts to each block of its kind, and yields those blocks, each with its parts by name."""
    for name, weight in list(unet.named_parameters()):
        if path := block_with(name, addition.place):
            block = unet.get_submodule(path)
            heads = block.attn1.heads if addition.place == "transformer" else 1
            parts = addition.build(len(weight), heads, device="meta")  # draws nothing from the global generator
            parts = {name: part.to_empty(device=weight.device).to(weight.dtype) for name, part in parts.items()}
            addition.initialise(parts, generator)
            for part_name, part in parts.items():
                setattr(block, part_name, part)
            yield block, parts


def _add_residual(
    addition: Addition, block: nn.Module, parts: dict[str, nn.Module], count: FrameCount
) -> RemovableHandle:
    """Adds what a module gives; by a forward hook, so that gradient checkpointing covers it."""
    # without the block, which would then hold itself, and its memory, until Python's gc runs
    hook = partial(_residual, addition, SimpleNamespace(**parts), count)
    return block.get_submodule(addition.layer).register_forward_hook(hook)


def _residual(
    addition: Addition, parts: SimpleNamespace, count: FrameCount, _layer: nn.Module, _args, hidden_states: Tensor
) -> Tensor:
    return hidden_states + addition.residual(parts, hidden_states, count.num_frames)


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def _check(unet) -> None:
    inflated = isinstance(unet, InflatedUNet)
    if not inflated and not isinstance(unet, UNet2DConditionModel):
        raise TavError(f"Only diffusers' UNet2DConditionModel can be inflated, got {type(unet).__name__}.")
    blocks = transformer_blocks(unet).values()
    if inflated or any(hasattr(b, "attn_temp") or isinstance(b.attn1.processor, FrameAttnProcessor) for b in blocks):
        raise TavError("This UNet is already inflated; call its deflate() first to inflate it differently.")
    family_of_config(unet.config, "This UNet")
    blocks = transformer_blocks(unet).values()
    if not blocks or any(b.attn2 is None or b.only_cross_attention or b.attn2.norm_cross is not None for b in blocks):
        raise TavError(
            f"This UNet's blocks are not self-attention followed by cross-attention; use a checkpoint of {SUPPORTED}."
        )


def _check_inputs(unet: UNet2DConditionModel, latents: Tensor, timestep, prompt_embeds: Tensor) -> None:
    channels, width = unet.config.in_channels, unet.config.cross_attention_dim
    if latents.ndim != 5 or latents.shape[1] != channels:
        raise TavError(f"The latents must be (b, {channels}, f, h, w), got {tuple(latents.shape)}.")
    batch, _, frames, _, _ = latents.shape
    if prompt_embeds.ndim not in (3, 4) or prompt_embeds.shape[-1] != width or len(prompt_embeds) not in (1, batch):
        raise TavError(
            f"The prompt embeddings must be ({batch}, n, {width}), or ({batch}, {frames}, n, {width}) for a prompt "
            f"per frame, got {tuple(prompt_embeds.shape)}."
        )
    if prompt_embeds.ndim == 4 and prompt_embeds.shape[1] != frames:
        raise TavError(f"Got {prompt_embeds.shape[1]} prompts for {frames} frames; give one per frame, or one for all.")
    if torch.is_tensor(timestep) and timestep.numel() not in (1, batch):
        raise TavError(f"Got {timestep.numel()} timesteps for a batch of {batch}; give one, or one per sample.")


def _check_known(inflation: Inflation, latents: Tensor, known: Known | None) -> None:
    if known is None:
        return
    if not inflation.known_frames:
        raise TavError("This network cannot be shown known frames; inflate and tune it with known_frames=True.")
    batch, *shape = known.latents.shape
    if shape != list(latents.shape[1:]) or len(latents) % batch:
        raise TavError(
            f"The known frames {tuple(known.latents.shape)} do not fit latents {tuple(latents.shape)}; give as many "
            "frames of the same size, for one sample or for each."
        )
