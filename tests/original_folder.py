"""Writes folders as the original Tune-A-Video writes its results, with diffusers 0.11.1."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

QUERIES = (".attn1.to_q.", ".attn2.to_q.")
# What `tav run` reads, too; the original writes all its settings, of which these are the ones that a result is told by.
SETTINGS = {
    "pretrained_model_path": "./checkpoints/stable-diffusion-v1-4",
    "train_data": {
        "video_path": "data/man-skiing.mp4",
        "prompt": "a man is skiing",
        "n_sample_frames": 4,
        "width": 64,
        "height": 32,
        "sample_start_idx": 1,
        "sample_frame_rate": 2,
    },
    "max_train_steps": 5,
}


def write_unet(folder: Path, config: Mapping, tensors: Mapping[str, Tensor], *, suffix: str = ".bin") -> Path:
    """Writes the unet/ of a result: `config` and `tensors` are those of the 2-D network, with attn_temp, norm_temp."""
    folder.mkdir(parents=True)
    blocks = {key: json.loads(json.dumps(config[key]).replace("2D", "3D")) for key in config if "block_type" in key}
    theirs = {**config, **blocks, "mid_block_type": "UNetMidBlock3DCrossAttn", "dual_cross_attention": False}
    theirs |= {"_class_name": "UNet3DConditionModel", "_diffusers_version": "0.11.1"}
    (folder / "config.json").write_text(json.dumps(theirs))
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save = save_file if suffix == ".safetensors" else torch.save
    save(tensors, folder / f"diffusion_pytorch_model{suffix}")
    return folder


def as_tuned(base: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """A network's tensors as if tuned: other query projections, and temporal attention after an untouched norm."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    tuned = {key: t.float() + draw(*t.shape) if any(q in key for q in QUERIES) else t for key, t in base.items()}
    for key in [key for key in base if key.endswith(".attn1.to_q.weight")]:
        block, width = key.removesuffix("attn1.to_q.weight"), len(base[key])
        tuned |= {f"{block}attn_temp.{to}.weight": draw(width, width) for to in ("to_q", "to_k", "to_v", "to_out.0")}
        tuned[f"{block}attn_temp.to_out.0.bias"] = draw(width)
        tuned |= {f"{block}norm_temp.weight": torch.ones(width), f"{block}norm_temp.bias": torch.zeros(width)}
    return tuned


def write_original(folder: Path, base: Path, seed: int = 0) -> Path:
    """Writes the result of tuning the diffusers folder `base`: all parts as .bin, the VAE's attention by old names."""
    shutil.copytree(base, folder)
    for part in ("unet", "vae", "text_encoder"):
        (weights,) = (folder / part).glob("*.safetensors")
        tensors, config = load_file(weights), json.loads((folder / part / "config.json").read_text())
        weights.unlink()
        if part == "unet":
            shutil.rmtree(folder / "unet")
            write_unet(folder / "unet", config, as_tuned(tensors, seed))
        elif part == "vae":
            names = {"to_q": "query", "to_k": "key", "to_v": "value", r"to_out\.0": "proj_attn"}
            for new, old in names.items():
                tensors = {re.sub(rf"(attentions\.0)\.{new}\.", rf"\1.{old}.", k): t for k, t in tensors.items()}
            torch.save(tensors, folder / "vae" / "diffusion_pytorch_model.bin")
        else:
            torch.save(tensors, folder / "text_encoder" / "pytorch_model.bin")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "TuneAVideoPipeline", "unet": ["models", "UNet3DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder
