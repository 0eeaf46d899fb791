"""An encoded prompt: the embeddings that a network attends to, and what else some networks take of a prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import TavError


@dataclass(frozen=True, eq=False)
class Prompt:
    """An encoded prompt, or one for each sample of a batch.

    embeds: (b, n, d), or (b, f, n, d) for a prompt per frame; b may be 1 for all samples.
    added: further conditions, by diffusers' names: `class_labels`, or what it takes as `added_cond_kwargs`. Each is
        (b, ...), or (b, f, ...) for a prompt per frame. Empty for Stable Diffusion 1.x and 2.x.
    """

    embeds: Tensor
    added: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self):
        count = self.embeds.shape[:-2]
        for name, tensor in self.added.items():
            if tensor.shape[: len(count)] != count:
                raise TavError(
                    f"The prompt embeddings are {tuple(self.embeds.shape)}, but {name} is {tuple(tensor.shape)}; both "
                    f"must start with {tuple(count)}, one entry per prompt."
                )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The embeddings, then the added conditions in the order of their names."""
        return self.embeds, *(tensor for _, tensor in sorted(self.added.items()))

    def __getitem__(self, index) -> "Prompt":
        """Indexes every tensor: `prompt[:1]` is the first of a batch, `prompt[None]` makes a batch one per frame."""
        return self._map(lambda tensor: tensor[index])

    def on_frames(self, frames: Sequence[int]) -> "Prompt":
        """The prompt of these frames alone; one for all frames stays as it is."""
        return self._map(lambda tensor: tensor[:, list(frames)]) if self.embeds.ndim == 4 else self

    def per_image(self, batch: int, num_frames: int) -> "Prompt":
        """The prompt of each frame as an image of its own, (b f, ...), for a batch of videos."""
        if self.embeds.ndim == 4:
            return self.expand(batch)._map(lambda tensor: tensor.flatten(0, 1))
        return self.expand(batch)._map(lambda tensor: tensor.repeat_interleave(num_frames, 0))

    def expand(self, batch: int) -> "Prompt":
        """The same prompt for every sample of a batch; copies nothing."""
        return self._map(lambda tensor: tensor.expand(batch, *tensor.shape[1:]))

    def stacks_with(self, other: "Prompt") -> bool:
        """Whether the samples of both fit into one batch."""
        mine, theirs = ([tensor.shape[1:] for tensor in prompt.tensors] for prompt in (self, other))
        return self.added.keys() == other.added.keys() and mine == theirs

    def arguments(self, latents: Tensor, dtype: torch.dtype) -> dict:
        """The arguments of a diffusers network for latents (b, c, f, h, w), whose frames it takes folded as (b f).

        One prompt for all frames stays (b, n, d), so that its keys and values are computed once.
        """
        batch, frames = len(latents), latents.shape[2]
        prompt, per_frame = self.expand(batch), self.embeds.ndim == 4
        added = {
            name: tensor.flatten(0, 1) if per_frame else tensor.repeat_interleave(frames, 0)
            for name, tensor in prompt.added.items()
        }
        labels = added.pop("class_labels", None)
        return {
            "encoder_hidden_states": (prompt.embeds.flatten(0, 1) if per_frame else prompt.embeds).to(dtype),
            "class_labels": labels if labels is None else labels.to(dtype),
            "added_cond_kwargs": added,  # not cast: diffusers embeds the numbers among them in float32
        }

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Prompt":
        return Prompt(change(self.embeds), {name: change(tensor) for name, tensor in self.added.items()})


def as_prompt(prompt_embeds: Tensor | Prompt) -> Prompt:
    """Takes embeddings alone as a prompt without further conditions."""
    return prompt_embeds if isinstance(prompt_embeds, Prompt) else Prompt(prompt_embeds)


def stacked(prompts: Sequence[Prompt]) -> Prompt:
    """The samples of all prompts in one batch."""
    names = prompts[0].added
    return Prompt(
        torch.cat([prompt.embeds for prompt in prompts]),
        {name: torch.cat([prompt.added[name] for prompt in prompts]) for name in names},
    )
