"""The files that a server of the tests works with, drawn from seeds when a test runs: checkpoints, a LoRA, a
ControlNet, a T2I-Adapter and tuned weights of reduced Stable Diffusion layout, under the names that people have, and a
clip."""

import math
import re
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from safetensors.torch import save_file

from tav_core import TunedWeights, inflate
from tav_core.files import atomic_path
from tav_core.tuned_facts import TunedFacts
from tests import clips
from tests.random_checkpoint import REDUCED_UNET, empty_tensors, original_unet_name, write_random_checkpoint

CHECKPOINT = "v1-5-pruned-emaonly.safetensors"
PERSONALISED = "dreamshaper_8.safetensors"
LORA = "blindbox_V1Mix.safetensors"
V_PREDICTION = "v2-1_768-ema-pruned.safetensors"
CONTROLNET = "control_v11p_sd15_openpose_fp16.safetensors"
T2I_ADAPTER = "t2iadapter_depth-fp16.safetensors"
CLIP = "man-skiing.mp4"
CLIP_FRAMES, CLIP_SIZE, CLIP_FPS = 12, 64, 8


def write_models(folder: Path) -> None:
    """Fills a models folder; what is there already, stays."""
    for name, write in {
        f"checkpoints/{CHECKPOINT}": lambda path: write_random_checkpoint(path, seed=0),
        f"checkpoints/{PERSONALISED}": lambda path: write_random_checkpoint(path, seed=3),
        f"checkpoints/{V_PREDICTION}": lambda path: write_random_checkpoint(path, seed=4, size="reduced-sd2"),
        f"loras/{LORA}": write_lora,
        f"controlnet/{CONTROLNET}": write_controlnet,
        f"controlnet/{T2I_ADAPTER}": write_t2i_adapter,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write(path)


def write_tuned_weights(path: Path, *, seed: int = 7) -> None:
    """Tuned weights for the checkpoint, large enough to be seen in an output."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(REDUCED_UNET)
    tensors = drawn(inflate(unet).trainable_parameters(), seed)
    facts = TunedFacts(family="sd1", checkpoint=CHECKPOINT, frames=3)
    TunedWeights({name: tensor / 10 for name, tensor in tensors.items()}, facts).save(path)


def write_clips(folder: Path) -> None:
    """A white square that goes over a coloured ground."""
    frames = [clips.colours(CLIP_SIZE, CLIP_SIZE).astype(np.uint8) for _ in range(CLIP_FRAMES)]
    for number, frame in enumerate(frames):
        frame[20:36, 4 + 4 * number : 20 + 4 * number] = 255
    clips.encode(folder / CLIP, frames, fps=CLIP_FPS)


def write_lora(path: Path, *, seed: int = 1, rank: int = 4) -> None:
    """A LoRA in kohya's names, for all attention of UNet and text encoder, large enough to be seen in an output."""
    generator = torch.Generator().manual_seed(seed)
    unet, _, text = empty_tensors("reduced")
    tensors, layers = {}, {f"unet_{name}": weight for name, weight in unet.items() if ".attn" in name}
    layers |= {f"te_text_model_{name}": weight for name, weight in text.items() if "_proj" in name}
    for number, (name, weight) in enumerate(layers.items()):
        if weight.ndim == 2:
            key = "lora_" + name.removesuffix(".weight").replace(".", "_")
            tensors |= {
                f"{key}.lora_down.weight": torch.randn(rank, weight.shape[1], generator=generator) / math.sqrt(rank),
                f"{key}.lora_up.weight": torch.randn(weight.shape[0], rank, generator=generator) / weight.shape[1],
                f"{key}.alpha": torch.tensor(rank / (1 + number % 2)),  # as block-wise LoRAs have them
            }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def write_controlnet(path: Path, *, seed: int = 2) -> None:
    """A ControlNet in the original's names, all of them random, the usual zeros too, so that it changes the output."""
    with torch.device("meta"):
        network = ControlNetModel.from_config(
            {key: value for key, value in REDUCED_UNET.items() if key != "up_block_types"}
        )
    tensors = drawn(network.state_dict(), seed)
    with atomic_path(path) as temporary:
        save_file({controlnet_name(name): tensor.half() for name, tensor in tensors.items()}, temporary)


def write_t2i_adapter(path: Path, *, seed: int = 6) -> None:
    """A T2I-Adapter in the original's names, which count residual blocks through all four levels."""
    with torch.device("meta"):
        network = T2IAdapter(in_channels=3, channels=[320, 640, 1280, 1280], num_res_blocks=2)
    tensors = drawn(network.state_dict(), seed)
    with atomic_path(path) as temporary:
        save_file({adapter_name(name): tensor.half() for name, tensor in tensors.items()}, temporary)


def drawn(empty: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Values of order one through all layers, for tensors on no device; biases are zero, norms the identity."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator) / math.sqrt(math.prod(tensor.shape[1:]))
        if tensor.ndim > 1
        else torch.full(tensor.shape, float("norm" in name and name.endswith("weight")))
        for name, tensor in empty.items()
    }


def adapter_name(name: str) -> str:
    """The original's name of a full T2I-Adapter's tensor."""
    name = name.removeprefix("adapter.")
    if residual := re.match(r"body\.(\d)\.resnets\.(\d)\.", name):
        return f"body.{2 * int(residual[1]) + int(residual[2])}.{name[residual.end() :]}"
    return re.sub(r"^body\.(\d)\.in_conv", lambda match: f"body.{2 * int(match[1])}.in_conv", name)


def controlnet_name(name: str, config: dict = REDUCED_UNET) -> str:
    """The original's name of a ControlNet's tensor; `config` is the UNet's."""
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
    return original_unet_name(name, config | {"up_block_types": config["down_block_types"]})
