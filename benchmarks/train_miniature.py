"""Trains the miniature Stable Diffusion of tav_core/demo from scratch: VAE, UNet and text encoder, and its LoRA.

    python benchmarks/train_miniature.py --work train-miniature

Every stage saves its state in the work folder, and an interrupted run resumes from there. On a GPU it takes minutes, on
two CPU cores a few hours. At the end, the checkpoint and its LoRA are in the folder `miniature` of the work folder;
`--install` copies them to where tav_core looks for them.
"""

import argparse
import copy
import hashlib
import json
import math
import re
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tav_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from tav_core.ddim import sample
from tav_core.demo import vocabulary, world
from tav_core.demo.miniature import MINIATURE, STRIPED_BALL
from tav_core.demo.readers import read_image
from tav_core.demo.vocabulary import write_tokenizer
from tav_core.demo.world import draw, random_scene
from tav_core.files import atomic_path
from tav_core.inflate import inflate
from tav_core.prediction import NoisePredictor, guided

SEED = 2212
HELD_OUT = 512  # images
SCALE = 0.18215  # Stable Diffusion's own, which hosts assume
VAE = {
    "block_out_channels": (32, 32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 128,
    "scaling_factor": SCALE,
}
UNET = {
    "sample_size": 16,
    "block_out_channels": (64, 128),
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "attention_head_dim": 4,  # in diffusers, the number of heads
    "norm_num_groups": 32,
}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}
DDIM = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


# Images


def captioned_images(work: Path, count: int) -> tuple[Tensor, list[str]]:
    """Images (n, 3, 128, 128), uint8, and their captions; drawn once."""
    path = work / "images.npy"
    rng = np.random.default_rng(SEED)
    scenes = [random_scene(rng) for _ in range(count)]
    if not path.exists():
        save(path, np.stack([draw(scene) for scene in scenes]).transpose(0, 3, 1, 2))
    return torch.from_numpy(np.load(path)), [scene.caption for scene in scenes]


def save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def pixels(batch: Tensor, device: str) -> Tensor:
    return batch.to(device).float() / 127.5 - 1


# The training loop of all stages


class Training:
    """One-cycle AdamW with a running mean of the weights, saved every 250 steps; an interrupted training resumes.

    warm: the work folder of an earlier run, from whose averaged weights this one starts, with a fresh optimizer.
    """

    def __init__(
        self,
        path: Path,
        modules: dict[str, nn.Module],
        steps: int,
        rate: float,
        decay: float = 0.998,
        warm: Path | None = None,
    ):
        self.path, self.steps, self.decay = path, steps, decay
        self.modules = nn.ModuleDict(modules)
        if warm:
            self.modules.load_state_dict(torch.load(warm / path.name, map_location="cpu", weights_only=True)["mean"])
        self.mean = copy.deepcopy(self.modules).requires_grad_(False)
        parameters = [p for p in self.modules.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, total_steps=steps, pct_start=0.08)
        self.first, self.losses = 0, []
        if path.exists():
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.first, self.losses = state["step"], state["losses"]
            for name in ("modules", "mean", "optimizer", "schedule"):
                getattr(self, name).load_state_dict(state[name])

    def run(self, loss_of) -> nn.ModuleDict:
        started = time.time()
        for step in range(self.first, self.steps):
            loss = loss_of(step, torch.Generator().manual_seed(SEED + step))
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            decay = min(self.decay, (step + 1) / (step + 10))
            with torch.no_grad():
                for mean, now in zip(self.mean.parameters(), self.modules.parameters(), strict=True):
                    mean.lerp_(now, 1 - decay)
            self.losses.append(loss.item())
            if (step + 1) % 50 == 0:
                each = (time.time() - started) / (step + 1 - self.first)
                recent = sum(self.losses[-50:]) / 50
                print(f"{self.path.stem} {step + 1}/{self.steps}  loss {recent:.5f}  {each:.3f} s/step", flush=True)
            if (step + 1) % 250 == 0 or step + 1 == self.steps:
                self.save(step + 1)
        return self.mean.eval()

    def save(self, step: int) -> None:
        state = {name: getattr(self, name).state_dict() for name in ("modules", "mean", "optimizer", "schedule")}
        with atomic_path(self.path) as temporary:
            torch.save(state | {"step": step, "losses": self.losses}, temporary)


# VAE


def train_vae(work: Path, images: Tensor, steps: int, device: str, warm: Path | None = None) -> AutoencoderKL:
    """Trains on crops of 64 pixels, which cost a quarter, and on whole images for the last tenth of the steps."""
    torch.manual_seed(SEED)
    vae = AutoencoderKL(**VAE).to(device, memory_format=torch.channels_last)
    training = Training(work / "vae.pt", {"vae": vae}, steps, rate=2e-3, decay=0.995, warm=warm)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        whole = step >= 0.9 * steps
        chosen = torch.randint(len(images), (8 if whole else 16,), generator=generator)
        top, left = (8 * torch.randint(9, (2,), generator=generator)).tolist()
        window = slice(None) if whole else slice(top, top + 64), slice(None) if whole else slice(left, left + 64)
        batch = pixels(images[chosen][:, :, window[0], window[1]], device)
        posterior = vae.encode(batch).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        rebuilt = vae.decode(posterior.mean + posterior.std * noise).sample
        error = rebuilt - batch
        return (
            error.square().mean() + 0.1 * error.abs().mean() + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel()
        )

    return training.run(loss_of)["vae"]


@torch.no_grad()
def absorb_scale(vae: AutoencoderKL, images: Tensor, device: str) -> None:
    """Adjusts the 1x1 convolutions around the latents so that, scaled, each channel has mean 0 and deviation 1."""
    means = torch.cat([vae.encode(pixels(part, device)).latent_dist.mean for part in images[:512].split(64)])
    mean, std = means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3))
    out, back, gain = vae.quant_conv, vae.post_quant_conv, 1 / (SCALE * std)
    back.bias += (back.weight[:, :, 0, 0] * mean).sum(dim=1)
    back.weight *= (1 / gain)[None, :, None, None]
    out.bias[:4] = (out.bias[:4] - mean) * gain
    out.weight[:4] *= gain[:, None, None, None]
    out.bias[4:] += 2 * gain.log()


@torch.no_grad()
def encode(work: Path, name: str, vae: AutoencoderKL, images: Tensor, device: str) -> Tensor:
    """Scaled latents (n, 4, 16, 16), the mean of the posterior; encoded once."""
    path = work / f"{name}.npy"
    if not path.exists():
        parts = [vae.encode(pixels(part, device)).latent_dist.mean.cpu() * SCALE for part in images.split(16)]
        save(path, torch.cat(parts).half().numpy())
    return torch.from_numpy(np.load(path))


def train_decoder(work: Path, vae: AutoencoderKL, images: Tensor, latents: Tensor, steps: int, device: str) -> None:
    """Trains the decoder further, in place, for sharper images; the latents stay those the UNet was trained on."""
    parts = {"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder}
    copies = {name: copy.deepcopy(part).requires_grad_() for name, part in parts.items()}
    training = Training(work / "decoder.pt", copies, steps, rate=1e-3, decay=0.995)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(images), (8,), generator=generator)
        noise = 0.03 * torch.randn(latents[chosen].shape, generator=generator)  # as sampled latents are not exact
        noisy = ((latents[chosen].float() + noise) / SCALE).to(device, memory_format=torch.channels_last)
        error = training.modules["decoder"](training.modules["post_quant_conv"](noisy)) - pixels(images[chosen], device)
        return error.square().mean() + error.abs().mean()

    trained = training.run(loss_of)
    for name, part in parts.items():
        part.load_state_dict(trained[name].state_dict())


@torch.no_grad()
def vae_quality(vae: AutoencoderKL, images: Tensor, device: str) -> float:
    batch = pixels(images[:64], device)
    rebuilt = vae.decode(vae.encode(batch).latent_dist.mean).sample.clamp(-1, 1)
    return 10 * math.log10(4 / (rebuilt - batch).square().mean().item())


# UNet and text encoder


def networks(tokenizer: CLIPTokenizer, device: str) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    torch.manual_seed(SEED)
    unet = UNet2DConditionModel(**UNET)
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **marks, **TEXT))
    return unet.to(device, memory_format=torch.channels_last), text.to(device)


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


def caption_for(caption: str, generator: torch.Generator) -> str:
    """The caption, or sometimes none, a shorter one or one with a meaningless word, as in users' prompts."""
    draw = torch.rand((), generator=generator).item()
    if draw < 0.12:
        return ""
    if draw < 0.22:
        return caption.replace(" is moving", "")
    if draw < 0.26:
        letters = "".join(chr(97 + int(n)) for n in torch.randint(26, (5,), generator=generator))
        return caption.replace(" is moving", f" is {letters}")
    return caption


def noise_loss(unet, text, scheduler, tokens: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    timesteps = torch.randint(1000, (len(latents),), generator=generator).to(latents.device)
    noisy = scheduler.add_noise(latents, noise, timesteps).to(memory_format=torch.channels_last)
    states = text(tokens).last_hidden_state
    return F.mse_loss(unet(noisy, timesteps, states).sample, noise)


def train_unet(
    work: Path,
    tokenizer,
    latents: Tensor,
    captions: list[str],
    steps: int,
    device: str,
    warm: Path | None = None,
) -> nn.ModuleDict:
    unet, text = networks(tokenizer, device)
    scheduler = DDIMScheduler(**DDIM)
    training = Training(work / "unet.pt", {"unet": unet, "text": text}, steps, rate=1.5e-3, warm=warm)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (32,), generator=generator)
        tokens = token_ids(tokenizer, [caption_for(captions[i], generator) for i in chosen.tolist()]).to(device)
        return noise_loss(unet, text, scheduler, tokens, latents[chosen].float().to(device), generator)

    return training.run(loss_of)


# The LoRA, with which "sks ball" draws a striped ball


def train_lora(work: Path, tokenizer, vae, trained: nn.ModuleDict, steps: int, device: str) -> nn.ModuleDict:
    """Trains on striped balls and, for the other half, on random scenes, so that nothing else is forgotten."""
    torch.manual_seed(SEED)
    unet, text = (copy.deepcopy(trained[name]).requires_grad_(False).to(device) for name in ("unet", "text"))
    layers = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
    unet.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=layers))
    text.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "out_proj"]))
    scheduler, rng = DDIMScheduler(**DDIM), np.random.default_rng(SEED + 1)
    scenes = [random_scene(rng, **({"shape": "ball", "striped": True} if i % 2 else {})) for i in range(1200)]
    images = torch.from_numpy(np.stack([draw(scene) for scene in scenes]).transpose(0, 3, 1, 2))
    latents, captions = encode(work, "lora-latents", vae, images, device), [scene.caption for scene in scenes]
    training = Training(work / "lora.pt", {"unet": unet, "text": text}, steps, rate=2e-3, decay=0.98)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (32,), generator=generator)
        tokens = token_ids(tokenizer, [captions[i] for i in chosen.tolist()]).to(device)
        return noise_loss(unet, text, scheduler, tokens, latents[chosen].float().to(device), generator)

    return training.run(loss_of)


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
            tensors[f"{layer}.alpha"] = torch.tensor(8.0)
    return tensors


# Evaluation


@torch.no_grad()
def held_out_loss(trained: nn.ModuleDict, tokenizer, latents: Tensor, captions: list[str], device: str) -> float:
    scheduler, generator, losses = DDIMScheduler(**DDIM), torch.Generator().manual_seed(SEED), []
    for part in torch.arange(len(latents)).split(64):
        tokens = token_ids(tokenizer, [captions[i] for i in part.tolist()]).to(device)
        batch = latents[part].float().to(device)
        losses.append(noise_loss(trained["unet"], trained["text"], scheduler, tokens, batch, generator).item())
    return sum(losses) / len(losses)


def text_to_image(checkpoint: Checkpoint, captions: list[str]) -> np.ndarray:
    """One image per caption, (n, 128, 128, 3) uint8, sampled by the package itself as videos of one frame."""
    unet = inflate(checkpoint.unet, attention="frame", group_norm="frame", temporal=False)
    cond, uncond = (
        NoisePredictor(unet, checkpoint.encode_prompt(prompts), checkpoint.scheduler) for prompts in (captions, "")
    )
    noise = torch.randn(len(captions), 4, 1, 16, 16, generator=torch.Generator().manual_seed(SEED))
    latents = sample(guided(cond, uncond, 4.0), noise, checkpoint.scheduler, 25)
    frames = torch.cat([checkpoint.decode_video(latent[None]) for latent in latents])
    return (frames.numpy() * 255 + 0.5).astype(np.uint8)


def print_accuracy(folder: Path, work: Path, count: int = 96) -> None:
    checkpoint, rng = load_checkpoint(folder), np.random.default_rng(SEED + 2)
    scenes = [random_scene(rng) for _ in range(count)]
    images = text_to_image(checkpoint, [scene.caption for scene in scenes])
    readings = [read_image(image) for image in images]
    names = ("colour", "shape", "ground", "style")
    right = np.array([[getattr(r, n) == getattr(s, n) for n in names] for r, s in zip(readings, scenes, strict=True)])
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(names, right.mean(axis=0), strict=True))
    print(f"text-to-image, {count} captions: {shares}, all of them {right.all(axis=1).mean():.0%} right", flush=True)
    rows = [np.concatenate(list(images[start : start + 12]), axis=1) for start in range(0, count - count % 12, 12)]
    cv2.imwrite(str(work / "text-to-image.png"), np.concatenate(rows)[..., ::-1])


def save_miniature(folder: Path, vae: AutoencoderKL, trained: nn.ModuleDict) -> None:
    parts = {"unet": trained["unet"], "vae": vae, "text_encoder": trained["text"], "scheduler": DDIMScheduler(**DDIM)}
    for name, part in parts.items():
        part = copy.deepcopy(part).half().to("cpu") if isinstance(part, nn.Module) else part
        part.save_pretrained(folder / name)
    write_tokenizer(folder / "tokenizer")
    classes = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    index = {"_class_name": "StableDiffusionPipeline", **classes, "tokenizer": ["transformers", "CLIPTokenizer"]}
    absent = {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    (folder / "model_index.json").write_text(json.dumps(index | absent, indent=2) + "\n")


def ensure_same_run(parser: argparse.ArgumentParser, path: Path, options: argparse.Namespace) -> None:
    """Exits if the work folder holds another run's files, which must not be mixed with this one's."""
    made_by = [Path(__file__), *(Path(module.__file__) for module in (world, vocabulary))]
    run = {name: str(value) for name, value in vars(options).items() if name not in ("work", "device", "install")}
    run["code"] = hashlib.sha256(b"".join(file.read_bytes() for file in made_by)).hexdigest()
    if path.exists() and json.loads(path.read_text()) != run:
        parser.error(f"{path.parent} holds a run with other settings or code; choose a new --work folder.")
    path.write_text(json.dumps(run, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("train-miniature"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pictures", type=int, default=16000)
    parser.add_argument("--vae-steps", type=int, default=4000)
    parser.add_argument("--decoder-steps", type=int, default=1500)
    parser.add_argument("--unet-steps", type=int, default=5000)
    parser.add_argument("--sibling-steps", type=int, default=400)
    parser.add_argument("--warm", type=Path, help="start from this work folder of an earlier run on a similar world")
    parser.add_argument("--install", action="store_true", help="copy the result into tav_core/demo/miniature")
    options = parser.parse_args()
    work, device = options.work, options.device
    folder = work / "miniature"
    folder.mkdir(parents=True, exist_ok=True)
    ensure_same_run(parser, work / "run.json", options)
    images, captions = captioned_images(work, options.pictures)
    vae = train_vae(work, images[:-HELD_OUT], options.vae_steps, device, options.warm)
    absorb_scale(vae, images, device)
    print(f"VAE on held-out images: {vae_quality(vae, images[-HELD_OUT:], device):.1f} dB", flush=True)
    latents = encode(work, "latents", vae, images, device)
    tokenizer = write_tokenizer(folder / "tokenizer")
    known = latents[:-HELD_OUT], captions[:-HELD_OUT]
    trained = train_unet(work, tokenizer, *known, options.unet_steps, device, options.warm)
    loss = held_out_loss(trained, tokenizer, latents[-HELD_OUT:], captions[-HELD_OUT:], device)
    print(f"UNet on held-out images: loss {loss:.4f}", flush=True)
    save_miniature(folder, vae, trained)
    print_accuracy(folder, work)
    train_decoder(work, vae, images[:-HELD_OUT], latents[:-HELD_OUT], options.decoder_steps, device)
    print(f"VAE with sharpened decoder: {vae_quality(vae, images[-HELD_OUT:], device):.1f} dB", flush=True)
    save_miniature(folder, vae, trained)
    print_accuracy(folder, work)
    lora = train_lora(work, tokenizer, vae, trained, options.sibling_steps, device)
    save_file(lora_tensors(lora), folder / STRIPED_BALL.name, metadata={"ss_network_module": "networks.lora"})
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")
    if options.install:
        shutil.copytree(folder, MINIATURE, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
