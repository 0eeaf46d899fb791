"""Edits a clip with tuned weights, from the files on; as a script, in a process that knows nothing of the tuning."""

import json
import sys

import torch
from safetensors.torch import save_file

from tav_core import NoisePredictor, TunedWeights, guided, inflate, invert, sample
from tav_core.checkpoints.control_networks import open_controlnet
from tav_core.checkpoints.lora import Lora
from tav_core.control import Control
from tav_core.jobs.base import open_base
from tests.networks import video

WORDS, EDIT = "a ball is rolling", "a cube is rolling"


def opened(checkpoint, *, prediction_type=None, lora=None, control=None):
    """Checkpoint, inflated network, and controls on drawn images."""
    base = open_base(checkpoint, prediction_type=prediction_type, loras=[Lora.parse(lora)] if lora else [])
    parts = base.checkpoint
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    controls = (Control(open_controlnet(control), pictures, 0.8),) if control else ()
    return parts, inflate(parts.unet), controls, base


def edited(parts, unet, controls) -> dict[str, torch.Tensor]:
    """The noise that a clip of random latents came from, and an edit."""
    cond, uncond = (NoisePredictor(unet, parts.encode_prompt(t), parts.scheduler, controls) for t in (EDIT, ""))
    noise = invert(uncond, video(frames=3), parts.scheduler, 2)[-1]
    edit = sample(guided(cond, uncond, 5.0), noise, parts.scheduler, 2)
    return {"noise": noise.contiguous(), "edit": edit.contiguous()}


if __name__ == "__main__":
    for checkpoint, weights, output, options in json.loads(sys.argv[1]):
        parts, unet, controls, _ = opened(checkpoint, **options)
        TunedWeights.load(weights).apply(unet)
        save_file(edited(parts, unet, controls), output)
