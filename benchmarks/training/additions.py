"""What is trained on the frozen miniature: two LoRAs, a pose ControlNet and a depth T2I-Adapter."""

import copy
import re
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, DDIMScheduler, T2IAdapter
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from tav_core.world.draw import depth, poses
from tav_core.world.scene import Scene

from .images import drawn, in_parallel, random_scenes, save
from .loop import SEED, Training
from .unet import DDIM, UNET, noise_loss, noisy_batch, token_ids
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


def captioned(work: Path, name: str, scenes: list[Scene], vae, device: str) -> tuple[Tensor, list[str]]:
    """Latents of the scenes and their captions."""
    images = drawn(work / f"{name}-images.npy", scenes)
    return encode(work, f"{name}-latents", vae, images, device), [scene.caption for scene in scenes]


def train_lora(
    work: Path,
    name: str,
    scenes: list[Scene],
    rank: int,
    tokenizer,
    vae,
    trained: nn.ModuleDict,
    steps: int,
    device: str,
) -> nn.ModuleDict:
    torch.manual_seed(SEED)
    unet, text = (copy.deepcopy(trained[part]).requires_grad_(False) for part in ("unet", "text"))
    layers = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), unet)
    layers = ["q_proj", "k_proj", "v_proj", "out_proj"]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), text)
    unet, text = unet.to(device), text.to(device)
    latents, captions = captioned(work, name, scenes, vae, device)
    training = Training(work / f"{name}.pt", {"unet": unet, "text": text}, steps, rate=2e-3, decay=0.98)
    scheduler = DDIMScheduler(**DDIM)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        chosen = torch.randint(len(latents), (32,), generator=generator)
        tokens = token_ids(tokenizer, [captions[i] for i in chosen.tolist()]).to(device)
        return *noisy_batch(scheduler, latents[chosen].to(device), generator), tokens

    return training.run(draw, lambda *batch: noise_loss(unet, text, *batch))


def lora_tensors(lora: nn.ModuleDict) -> dict[str, Tensor]:
    """The LoRA with the keys of kohya's trainer, which every program reads."""
    tensors = {}
    for prefix, name in (("lora_unet", "unet"), ("lora_te", "text")):
        for key, tensor in lora[name].state_dict().items():
            found = re.fullmatch(r"(.+)\.lora_([AB])\.default\.weight", key)
            if not found:
                continue
            layer = found[1] if name == "unet" or found[1].startswith("text_model.") else f"text_model.{found[1]}"
            layer = f"{prefix}_{layer.replace('.', '_')}"
            tensors[f"{layer}.lora_{'down' if found[2] == 'A' else 'up'}.weight"] = tensor.half().contiguous()
            if found[2] == "A":
                tensors[f"{layer}.alpha"] = torch.tensor(float(len(tensor)))
    return tensors


def train_pose_controlnet(work: Path, count: int, tokenizer, vae, trained, steps: int, device: str) -> ControlNetModel:
    """Trains on scenes with a figure; its zero convolutions begin at zero, so it starts as no control at all."""
    torch.manual_seed(SEED)
    control = ControlNetModel(**POSE_CONTROLNET)
    own = trained["unet"].state_dict()
    control.load_state_dict({k: v for k, v in own.items() if _fits(control, k, v)}, strict=False)
    control.to(device)
    scenes = [s for s in random_scenes(3 * count, seed=2) if any(thing.is_figure for thing in s.things)][:count]

    def residuals_of(hints: Tensor):
        def residuals(noisy, timesteps, states):
            down, middle = control(noisy, timesteps, states, hints.float() / 255, return_dict=False)
            return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

        return residuals

    hints = _kept(work / "pose-hints.npy", lambda: in_parallel(poses, scenes).transpose(0, 3, 1, 2))
    return _train(work, "pose", scenes, hints, control, residuals_of, tokenizer, vae, trained, steps, device)


def train_depth_adapter(work: Path, count: int, tokenizer, vae, trained, steps: int, device: str) -> T2IAdapter:
    torch.manual_seed(SEED)
    adapter = T2IAdapter(**DEPTH_ADAPTER).to(device)
    scenes = random_scenes(count, seed=3)

    def residuals_of(hints: Tensor):
        return lambda noisy, timesteps, states: {"down_intrablock_additional_residuals": adapter(hints.float() / 255)}

    hints = _kept(work / "depth-hints.npy", lambda: in_parallel(depth, scenes)[:, None])
    return _train(work, "depth", scenes, hints, adapter, residuals_of, tokenizer, vae, trained, steps, device)


def _train(work, name, scenes, hints, network, residuals_of, tokenizer, vae, trained, steps: int, device: str):
    latents, captions = captioned(work, name, scenes, vae, device)
    unet, text = (trained[part].requires_grad_(False).to(device) for part in ("unet", "text"))
    training, scheduler = Training(work / f"{name}.pt", {"network": network}, steps, rate=1e-3), DDIMScheduler(**DDIM)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        chosen = torch.randint(len(latents), (32,), generator=generator)
        # without a prompt now and then, so that the image alone has to be followed
        chances = torch.rand(len(chosen), generator=generator).tolist()
        words = ["" if chance < 0.3 else captions[i] for i, chance in zip(chosen.tolist(), chances, strict=True)]
        tokens, batch = (
            token_ids(tokenizer, words).to(device),
            noisy_batch(scheduler, latents[chosen].to(device), generator),
        )
        return *batch, tokens, hints[chosen].to(device)

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
