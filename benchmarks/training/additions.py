"""What is trained on the frozen miniature: two LoRAs, a pose ControlNet and a depth T2I-Adapter.

`start`: a miniature whose own are trained further, instead of new ones.
"""

import copy
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, DDIMScheduler, T2IAdapter
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tav_core.checkpoints.control_networks import open_controlnet, open_t2i_adapter
from tav_core.world.draw import depth, poses
from tav_core.world.scene import PAPER, Scene

from .images import drawn, in_parallel, random_scenes, save, striped
from .loop import SEED, Length, Training
from .unet import DDIM, UNET, Captions, noise_loss, noisy_batch
from .vae import encode

POSE_CONTROLNET = {
    "block_out_channels": UNET["block_out_channels"],
    "down_block_types": ("DownBlock2D",) * len(UNET["block_out_channels"]),  # a pose is the same whatever the prompt
    "mid_block_type": "UNetMidBlock2D",
    "layers_per_block": UNET["layers_per_block"],
    "cross_attention_dim": UNET["cross_attention_dim"],
    "attention_head_dim": UNET["attention_head_dim"],
    "norm_num_groups": UNET["norm_num_groups"],
    "conditioning_embedding_out_channels": (16, 16, 32, 64),
}
DEPTH_ADAPTER = {
    "in_channels": 1,
    "channels": list(UNET["block_out_channels"]),
    "num_res_blocks": 1,
    "downscale_factor": 8,
    "adapter_type": "full_adapter",
}


CONTROLLED = 6000  # images


def scenes_of(name: str) -> list[Scene]:
    """The scenes that an addition learns from: a LoRA by its name, or "pose" or "depth"."""
    if name == "sks":  # half are without bands, so that it changes nothing else
        return random_scenes(600, seed=4) + [striped(one) for one in random_scenes(600, seed=6)]
    if name == "paper":
        return random_scenes(1200, seed=5, style=PAPER)
    if name == "pose":
        scenes = random_scenes(3 * CONTROLLED, seed=2)
        return [scene for scene in scenes if any(thing.is_figure for thing in scene.things)][:CONTROLLED]
    return random_scenes(CONTROLLED, seed=3)


def draw_images(work: Path) -> None:
    """Draws ahead, and keeps, what all additions learn from."""
    for name in ("sks", "paper", "pose", "depth"):
        drawn(work / f"{name}-images.npy", scenes_of(name))
    _pose_hints(work)
    _depth_hints(work)


def _pose_hints(work: Path) -> Tensor:
    return _kept(work / "pose-hints.npy", lambda: in_parallel(poses, scenes_of("pose")).transpose(0, 3, 1, 2))


def _depth_hints(work: Path) -> Tensor:
    return _kept(work / "depth-hints.npy", lambda: in_parallel(depth, scenes_of("depth"))[:, None])


def captioned(work: Path, name: str, vae, device: str) -> tuple[Tensor, list[str]]:
    """Latents and captions of an addition's scenes."""
    scenes = scenes_of(name)
    images = drawn(work / f"{name}-images.npy", scenes)
    return encode(work, f"{name}-latents", vae, images, device), [scene.caption for scene in scenes]


def train_lora(
    work: Path,
    name: str,
    rank: int,
    tokenizer,
    vae,
    trained: nn.ModuleDict,
    length: Length,
    device: str,
    start: Path | None = None,
) -> nn.ModuleDict:
    torch.manual_seed(SEED)
    unet, text = (copy.deepcopy(trained[part]).requires_grad_(False) for part in ("unet", "text"))
    layers = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), unet)
    layers = ["q_proj", "k_proj", "v_proj", "out_proj"]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), text)
    unet, text = unet.to(device), text.to(device)
    lora = {"unet": unet, "text": text}
    if start:
        load_lora(lora, lora_file(start, name))
    latents, captions = captioned(work, name, vae, device)
    training = Training(work / f"{name}.pt", lora, length, rate=2e-3, decay=0.98)
    scheduler, latents, words = DDIMScheduler(**DDIM), latents.to(device), Captions(tokenizer, captions, device)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        chosen = torch.randint(len(latents), (32,), generator=generator, device=latents.device)
        return *noisy_batch(scheduler, latents[chosen], generator), words.draw(chosen, generator, (1.0, 1.0, 1.0))

    return training.run(draw, lambda *batch: noise_loss(unet, text, *batch))


def lora_file(folder: Path, name: str) -> Path:
    return folder / f"{name}-lora.safetensors"


def save_lora(lora: nn.ModuleDict, path: Path) -> None:
    """With the keys of kohya's trainer, which every program reads."""
    tensors = {}
    for layer, side, tensor in _lora_weights(lora):
        tensors[f"{layer}.lora_{side}.weight"] = tensor.half().contiguous()
        if side == "down":
            tensors[f"{layer}.alpha"] = torch.tensor(float(len(tensor)))
    save_file(tensors, path, metadata={"ss_network_module": "networks.lora"})


def load_lora(lora: dict[str, nn.Module], path: Path) -> None:
    tensors = load_file(path)
    for layer, side, tensor in _lora_weights(lora):
        tensor.copy_(tensors[f"{layer}.lora_{side}.weight"])


def _lora_weights(lora: nn.ModuleDict | dict[str, nn.Module]) -> Iterator[tuple[str, str, Tensor]]:
    """Each weight with the name of its layer in kohya's files, and "down" or "up"."""
    for prefix, name in (("lora_unet", "unet"), ("lora_te", "text")):
        for key, tensor in lora[name].state_dict().items():
            if found := re.fullmatch(r"(.+)\.lora_([AB])\.default\.weight", key):
                layer = found[1] if name == "unet" or found[1].startswith("text_model.") else f"text_model.{found[1]}"
                yield f"{prefix}_{layer.replace('.', '_')}", "down" if found[2] == "A" else "up", tensor


def train_pose_controlnet(
    work: Path, tokenizer, vae, trained, length: Length, device: str, start: Path | None = None
) -> ControlNetModel:
    """Trains on scenes with a figure; a new one's zero convolutions are zero, so it starts as no control at all."""
    if start:
        control = open_controlnet(start / "pose").requires_grad_(True).train()
    else:
        torch.manual_seed(SEED)
        control = ControlNetModel(**POSE_CONTROLNET)
        own = trained["unet"].state_dict()
        control.load_state_dict({k: v for k, v in own.items() if _fits(control, k, v)}, strict=False)
    control.to(device)

    def residuals_of(hints: Tensor):
        def residuals(noisy, timesteps, states):
            down, middle = control(noisy, timesteps, states, hints.float() / 255, return_dict=False)
            return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

        return residuals

    return _train(work, "pose", _pose_hints(work), control, residuals_of, tokenizer, vae, trained, length, device)


def train_depth_adapter(
    work: Path, tokenizer, vae, trained, length: Length, device: str, start: Path | None = None
) -> T2IAdapter:
    if start:
        adapter = open_t2i_adapter(start / "depth").requires_grad_(True).train()
    else:
        torch.manual_seed(SEED)
        adapter = T2IAdapter(**DEPTH_ADAPTER)
    adapter.to(device)

    def residuals_of(hints: Tensor):
        return lambda noisy, timesteps, states: {"down_intrablock_additional_residuals": adapter(hints.float() / 255)}

    return _train(work, "depth", _depth_hints(work), adapter, residuals_of, tokenizer, vae, trained, length, device)


def _train(work, name, hints, network, residuals_of, tokenizer, vae, trained, length: Length, device: str):
    latents, captions = captioned(work, name, vae, device)
    unet, text = (trained[part].requires_grad_(False).to(device) for part in ("unet", "text"))
    training, scheduler = Training(work / f"{name}.pt", {"network": network}, length, rate=1e-3), DDIMScheduler(**DDIM)
    latents, hints, words = latents.to(device), hints.to(device), Captions(tokenizer, captions, device)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        chosen = torch.randint(len(latents), (32,), generator=generator, device=latents.device)
        # without a prompt now and then, so that the image alone has to be followed
        tokens = words.draw(chosen, generator, (0.7, 0.7, 0.7))
        return *noisy_batch(scheduler, latents[chosen], generator), tokens, hints[chosen]

    def loss_of(noisy: Tensor, noise: Tensor, timesteps: Tensor, tokens: Tensor, shown: Tensor) -> Tensor:
        return noise_loss(unet, text, noisy, noise, timesteps, tokens, residuals_of(shown))

    return training.run(draw, loss_of)["network"]


def _fits(network: nn.Module, name: str, tensor: Tensor) -> bool:
    own = network.state_dict().get(name)
    return own is not None and own.shape == tensor.shape


def _kept(path: Path, draw) -> Tensor:
    if not path.exists():
        save(path, draw())
    return torch.from_numpy(np.load(path))
