"""Samples each variant's edits of a clip: each network is tuned once, and all edits are sampled in one batch."""

import copy
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..ddim import invert, sample
from ..demo.settings import Settings
from ..errors import TavError
from ..files import read_tensors, write_tensors
from ..fingerprints import digest_of, key_of, schedule_of
from ..inflate import InflatedUNet, inflate
from ..jobs.base import versions
from ..prediction import NoisePredictor, guided
from ..prompt import Prompt
from ..tune import TuneConfig, tune
from ..world.draw import draw_clip
from ..world.protocol import WorldClip
from .variants import Network, Variant

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
        return (
            cls(tensors["edits"], tensors.get("reconstruction"), metadata["seconds"])
            if metadata.get("key") == key
            else None
        )


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
                sampler = sampler or _Sampler(checkpoint, encoded, network, settings, seeds)
                samples = sampler.samples(variant.inverted)
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


class _Sampler:
    """Samples edits of one clip with one network, which it tunes on the clip first.

    seeds: of tuning and of random noise; with one for both, sampling would start from noise the network was tuned on.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        encoded: EncodedClip,
        network: Network,
        settings: Settings,
        seeds: tuple[int, int],
    ):
        self.scheduler, self.encoded, self.settings = checkpoint.scheduler, encoded, settings
        tuning_seed, self.noise_seed = seeds
        began = time.perf_counter()
        self.unet = inflated(checkpoint, network, settings)
        if network.is_tuned:
            config = TuneConfig(num_steps=settings.tuning_steps, learning_rate=settings.learning_rate, seed=tuning_seed)
            scheduler = DDPMScheduler.from_config(self.scheduler.config)
            tune(self.unet, encoded.latents, encoded.prompt, scheduler, config)
        self.tuning_seconds = time.perf_counter() - began

    def samples(self, inverted: bool) -> Samples:
        began, reconstruction = time.perf_counter(), None
        empty, steps = self._predictor(self.encoded.empty), self.settings.inversion_steps
        if inverted:
            noise = invert(empty, self.encoded.latents, self.scheduler, steps)[-1]
            reconstruction = sample(empty, noise, self.scheduler, steps)
        else:
            noise = torch.randn(self.encoded.latents.shape, generator=torch.Generator().manual_seed(self.noise_seed))
        edits = sample(
            guided(self._predictor(self.encoded.edits), empty, self.settings.guidance_scale),
            noise.to(self.encoded.latents).expand(len(self.encoded.edits.embeds), -1, -1, -1, -1),
            self.scheduler,
            self.settings.steps,
        )
        return Samples(edits, reconstruction, self.tuning_seconds + time.perf_counter() - began)

    def _predictor(self, prompt: Prompt) -> NoisePredictor:
        return NoisePredictor(self.unet, prompt, self.scheduler)


def inflated(checkpoint: Checkpoint, network: Network, settings: Settings) -> InflatedUNet:
    """An inflated copy of the checkpoint's network."""
    return inflate(copy.deepcopy(checkpoint.unet), network.inflation(settings.group_norm))


def _key(
    checkpoint: Checkpoint, encoded: EncodedClip, variant: Variant, settings: Settings, seeds: tuple[int, int]
) -> str:
    return key_of(
        encoded.latents,
        *encoded.prompt.tensors,
        *encoded.empty.tensors,
        *encoded.edits.tensors,
        unet=digest_of(checkpoint.unet),
        network=asdict(variant.network),
        inverted=variant.inverted,
        settings=asdict(settings),
        seeds=seeds,
        versions=versions(),
        scheduler=schedule_of(checkpoint.scheduler),
    )
