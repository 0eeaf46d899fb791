"""Samples each variant's edits of a clip: each network is tuned once, and all edits are sampled in one batch."""

import copy
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..ddim import invert, sample, source_path
from ..demo.settings import Settings
from ..errors import TavError
from ..files import read_tensors, without_numbers, write_tensors
from ..fingerprints import digest_of, key_of, schedule_of
from ..inflate import InflatedUNet, inflate
from ..jobs.base import versions
from ..layout import Tokens, align
from ..lend import lent, structure_of
from ..masks import latent_mask, word_mask
from ..prediction import NoisePredictor, guided
from ..prompt import Prompt
from ..source import Lender, SourcePath
from ..steps import INVERSIONS
from ..tune import TuneConfig, tune
from ..world.draw import draw_clip, truth
from ..world.judge import Edit
from ..world.protocol import WorldClip
from .variants import Network, Sampling, Variant

MARGIN = 12  # pixels by which a mask is grown, so that another shape fits into it
FORMAT, SUFFIX = "tune-a-video/evaluation/1", ".safetensors"


@dataclass(frozen=True, eq=False)
class Samples:
    """One variant's samples of one clip, as clean latents.

    edits: (e, c, f, h, w); reconstruction: (1, c, f, h, w), sampled from the inversion; None without one.
    seconds: of tuning, inversion and sampling, without the VAE.
    """

    edits: Tensor
    reconstruction: Tensor | None
    seconds: float

    def save(self, path: str | os.PathLike, key: str) -> None:
        tensors = {"edits": self.edits, "reconstruction": self.reconstruction}
        tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        write_tensors(path, tensors, FORMAT, {"key": key, "seconds": self.seconds})

    @classmethod
    def load(cls, path: str | os.PathLike, key: str) -> "Samples | None":
        """Reads samples saved with the same key; None if the file is missing, damaged, or has another key."""
        try:
            tensors, metadata = read_tensors(path, FORMAT)
        except TavError:
            return None
        edits, reconstruction, seconds = tensors.get("edits"), tensors.get("reconstruction"), metadata.get("seconds")
        intact = (
            edits is not None
            and edits.ndim == 5
            and (reconstruction is None or reconstruction.shape == (1, *edits.shape[1:]))
            and not without_numbers(tensors)
            and isinstance(seconds, float)
        )
        return cls(edits, reconstruction, seconds) if intact and metadata.get("key") == key else None


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """latents: (1, c, f, h, w); embeddings of the clip's prompt and of "", (1, n, d), and of the edits (e, n, d)."""

    latents: Tensor
    prompt: Prompt
    empty: Prompt
    edits: Prompt


def sample_variants(
    checkpoint: Checkpoint,
    clip: WorldClip,
    variants: Mapping[str, Variant],
    settings: Settings,
    *,
    seed: int = 0,
    work: Path | None = None,
) -> Iterator[tuple[str, Samples]]:
    """Yields each variant's name and samples as soon as they are ready, grouped by network.

    work: a folder that keeps the samples; they are reused while nothing they depend on has changed.
    """
    encoded = encode(checkpoint, clip, settings.frames)
    seeds = tuple(np.random.SeedSequence((seed, clip.number)).generate_state(2).tolist())
    for network in dict.fromkeys(variant.network for variant in variants.values()):
        sampler = None
        for name, variant in variants.items():
            if variant.network != network:
                continue
            key, path = (
                _key(checkpoint, encoded, variant, settings, seeds),
                work and work / f"{clip.name}.{name}{SUFFIX}",
            )
            samples = path and Samples.load(path, key)
            if not samples:
                sampler = sampler or Sampler(checkpoint, clip, encoded, network, settings, seeds)
                samples = sampler.samples(variant.sampling)
                if path:
                    samples.save(path, key)
            yield name, samples


def encode(checkpoint: Checkpoint, clip: WorldClip, num_frames: int) -> EncodedClip:
    frames = torch.from_numpy(draw_clip(clip.scenes(num_frames))).float() / 255
    return EncodedClip(
        checkpoint.encode_video(frames).float(),
        checkpoint.encode_prompt(clip.prompt),
        checkpoint.encode_prompt(""),
        checkpoint.encode_prompt([edit.prompt for edit in clip.edits]),
    )


class Sampler:
    """Samples edits of one clip with one network, which it tunes on the clip first.

    seeds: of tuning and of random noise; with one for both, sampling would start from noise the network was tuned on.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        clip: WorldClip,
        encoded: EncodedClip,
        network: Network,
        settings: Settings,
        seeds: tuple[int, int],
    ):
        self.checkpoint, self.clip, self.encoded, self.settings = checkpoint, clip, encoded, settings
        self.scheduler = checkpoint.scheduler
        tuning_seed, self.noise_seed = seeds
        began = time.perf_counter()
        self.unet = inflated(checkpoint, network, settings)
        if network.is_tuned:
            config = TuneConfig(
                num_steps=settings.tuning_steps,
                learning_rate=settings.learning_rate,
                seed=tuning_seed,
                image_share=network.image_share,
            )
            scheduler = DDPMScheduler.from_config(self.scheduler.config)
            tune(self.unet, encoded.latents, encoded.prompt, scheduler, config)
        self.tuning_seconds = time.perf_counter() - began

    def samples(self, sampling: Sampling) -> Samples:
        began, reconstruction, path = time.perf_counter(), None, None
        empty, latents = self._predictor(self.encoded.empty), self.encoded.latents
        steps = sampling.inversion_steps or self.settings.inversion_steps
        if sampling.inverted:
            refinements = INVERSIONS[sampling.invert_with]
            trajectory = invert(empty, latents, self.scheduler, steps, refinements=refinements)
            path, noise = source_path(trajectory, self.scheduler, steps), trajectory[-1]
            reconstruction = sample(empty, noise, self.scheduler, steps)
        else:
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(self.noise_seed)).to(latents)
        if sampling.dials or sampling.mask:
            edits = torch.cat([self._kept(number, sampling, path) for number in range(len(self.clip.edits))])
        else:
            edits = sample(
                guided(self._predictor(self.encoded.edits), empty, self._guidance_scale(sampling)),
                noise.expand(len(self.clip.edits), -1, -1, -1, -1),
                self.scheduler,
                self.settings.steps,
            )
        return Samples(edits, reconstruction, self.tuning_seconds + time.perf_counter() - began)

    def _kept(self, number: int, sampling: Sampling, path: SourcePath) -> Tensor:
        """One edit that keeps something of the clip, (1, c, f, h, w)."""
        edit, words = self.clip.edits[number], self.checkpoint.tokens(self.clip.prompt)
        source, steps = self._predictor(self.encoded.prompt), self.settings.steps
        layout = align(words, self.checkpoint.tokens(edit.prompt), self._weights(edit, sampling.reweight))
        cond, uncond = self._predictor(self.encoded.edits[number : number + 1]), self._predictor(self.encoded.empty)
        mask = self.mask(edit, sampling.mask, path)
        with lent(self.unet, sampling.borrows) as loan:
            lender = Lender(loan, source, path, sampling.dials)
            edited, empty = lender.borrowing(cond, layout), lender.borrowing(uncond)
            predict = guided(edited, empty, self._guidance_scale(sampling))
            return sample(predict, path.trajectory[-1], self.scheduler, steps, source=path, mask=mask)

    def _weights(self, edit: Edit, factor: float) -> dict[Tokens, float]:
        """The factors of the words that are in the edit's prompt and not in the clip's."""
        new = [] if factor == 1 else set(_words(edit.prompt)) - set(_words(self.clip.prompt))
        return {self.checkpoint.tokens(word): factor for word in new}

    def _guidance_scale(self, sampling: Sampling) -> float:
        return sampling.guidance_scale or self.settings.guidance_scale

    def mask(self, edit: Edit, kind: str, path: SourcePath) -> Tensor | None:
        """Where an edit may change the clip: its thing and a margin for a new shape, or all but the things."""
        if not kind or edit.kind == "style":
            return None
        frames, *size = path.clean.shape[2:]
        things = self.clip.clip.scene.things
        numbers = range(len(things)) if edit.kind == "background" else [edit.number]
        if kind == "true":
            truths = [truth(scene).masks for scene in self.clip.scenes(frames)]
            mask = torch.from_numpy(np.stack([masks[list(numbers)].any(axis=0) for masks in truths])).float()
        else:
            tokens = self.checkpoint.tokens
            found = [tokens(self.clip.prompt).find(tokens(things[number].kind)) for number in numbers]
            source = self._predictor(self.encoded.prompt)
            mask = torch.stack([word_mask(source, path, places) for places in found]).amax(dim=0)
        if edit.kind == "background":
            return 1 - latent_mask(mask, frames, tuple(size))
        return latent_mask(mask, frames, tuple(size), MARGIN)

    def _predictor(self, prompt: Prompt) -> NoisePredictor:
        return NoisePredictor(self.unet, prompt, self.scheduler)


def _words(prompt: str) -> list[str]:
    return re.findall(r"\w+", prompt)


def inflated(checkpoint: Checkpoint, network: Network, settings: Settings) -> InflatedUNet:
    """An inflated copy of the checkpoint's network."""
    return inflate(copy.deepcopy(checkpoint.unet), network.inflation(settings.group_norm))


def _resolved(sampling: Sampling, checkpoint: Checkpoint) -> Sampling:
    """With the blocks it borrows from named, if any: which ones are the default may change."""
    borrows = sampling.dials.structure and (sampling.borrows or structure_of(checkpoint.unet))
    return replace(sampling, borrows=borrows or None)


def _key(
    checkpoint: Checkpoint, encoded: EncodedClip, variant: Variant, settings: Settings, seeds: tuple[int, int]
) -> str:
    return key_of(
        encoded.latents,
        *encoded.prompt.tensors,
        *encoded.empty.tensors,
        *encoded.edits.tensors,
        unet=digest_of(checkpoint.unet),
        network=variant.network.as_key(),
        sampling=asdict(_resolved(variant.sampling, checkpoint)),
        settings=asdict(settings),
        seeds=seeds,
        versions=versions(),
        scheduler=schedule_of(checkpoint.scheduler),
    )
