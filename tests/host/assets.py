"""The files that a server of the tests works with, drawn from seeds when a test runs: a checkpoint, a LoRA and a
ControlNet of reduced Stable Diffusion 1.5 layout under the names that people have, and a clip."""

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel
from safetensors.torch import save_file

from tav_core.files import atomic_path
from tests import clips
from tests.random_checkpoint import REDUCED_UNET, empty_tensors, original_unet_name, write_random_checkpoint

CHECKPOINT = "v1-5-pruned-emaonly.safetensors"
PERSONALISED = "dreamshaper_8.safetensors"
LORA = "blindbox_V1Mix.safetensors"
CONTROLNET = "control_v11p_sd15_openpose_fp16.safetensors"
CLIP, POSES = "man-skiing.mp4", "man-skiing-poses.mp4"
CLIP_FRAMES, CLIP_SIZE, CLIP_FPS = 12, 64, 8


def write_models(folder: Path) -> None:
    """Fills a models folder; what is there already, stays."""
    for name, write in {
        f"checkpoints/{CHECKPOINT}": lambda path: write_random_checkpoint(path, seed=0),
        f"checkpoints/{PERSONALISED}": lambda path: write_random_checkpoint(path, seed=3),
        f"loras/{LORA}": write_lora,
        f"controlnet/{CONTROLNET}": write_controlnet,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write(path)


def write_clips(folder: Path) -> None:
    """A white square that goes over a coloured ground, and the same square alone on black, as a pose would be."""
    square = [(4 + 4 * i, 20) for i in range(CLIP_FRAMES)]
    for name, ground in {CLIP: clips.colours(CLIP_SIZE, CLIP_SIZE), POSES: np.zeros((CLIP_SIZE, CLIP_SIZE, 3))}.items():
        pictures = [ground.astype(np.uint8) for _ in square]
        for picture, (x, y) in zip(pictures, square, strict=True):
            picture[y : y + 16, x : x + 16] = 255
        clips.encode(folder / name, pictures, fps=CLIP_FPS)


def write_lora(path: Path, *, seed: int = 1, rank: int = 4) -> None:
    """A LoRA in kohya's names, for all attention projections of the UNet, large enough to be seen in an output."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in empty_tensors("reduced")[0].items():
        if ".attn" in name and weight.ndim == 2:
            key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            tensors |= {
                f"{key}.lora_down.weight": torch.randn(rank, weight.shape[1], generator=generator) / math.sqrt(rank),
                f"{key}.lora_up.weight": torch.randn(weight.shape[0], rank, generator=generator) / weight.shape[1],
                f"{key}.alpha": torch.tensor(float(rank)),
            }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def write_controlnet(path: Path, *, seed: int = 2) -> None:
    """A ControlNet in the original's names, all of them random, the usual zeros too, so that it has a say."""
    with torch.device("meta"):
        network = ControlNetModel.from_config(
            {key: value for key, value in REDUCED_UNET.items() if key != "up_block_types"}
        )
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, empty in network.state_dict().items():
        fan_in = math.prod(empty.shape[1:])
        values = torch.randn(empty.shape, generator=generator) / math.sqrt(fan_in) if empty.ndim > 1 else None
        if values is None:
            values = torch.full(empty.shape, float("norm" in name and name.endswith("weight")))
        tensors[_controlnet_name(name)] = values.half()
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def _controlnet_name(name: str) -> str:
    part, _, rest = name.partition(".")
    if part == "controlnet_cond_embedding":
        place, _, kind = rest.rpartition(".")
        layer = {"conv_in": 0, "conv_out": 7}.get(place) or (int(place.split(".")[1]) + 1 if "." in place else 0)
        return f"input_hint_block.{2 * layer}.{kind}"
    if part == "controlnet_down_blocks":
        number, _, kind = rest.partition(".")
        return f"zero_convs.{number}.0.{kind}"
    if part == "controlnet_mid_block":
        return f"middle_block_out.0.{rest}"
    return original_unet_name(name, REDUCED_UNET | {"up_block_types": REDUCED_UNET["down_block_types"]})
