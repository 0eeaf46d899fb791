"""Runs the original's unedited `main()` on one clip, in its own environment (see README.md here).

Run by `original_quality.py` with the original's Python: takes a job as JSON, and writes its videos and losses to
`videos.safetensors` in the job's folder, which also holds the clip: `clip.npy`, (f, h, w, 3) in 0..255.
"""

import inspect
import json
import os
import re
import shutil
import sys
from pathlib import Path

from original_worker import import_original

VAE_SCALE = 0.18215  # written out in the original's code
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # names in the VAE


class ClipReader:
    """Stands in for decord's VideoReader: reads the frames of a .npy file."""

    def __init__(self, path: str, width: int, height: int):
        import numpy as np

        self.frames = np.load(path)
        if self.frames.shape[1:3] != (height, width):
            raise ValueError(f"The clip has the shape {self.frames.shape}, but {width}x{height} was asked for.")

    def __len__(self) -> int:
        return len(self.frames)

    def get_batch(self, numbers: list):
        import torch

        return torch.from_numpy(self.frames[numbers])


def convert(checkpoint: Path, folder: Path) -> None:
    """Writes a diffusers folder of today as diffusers 0.11.1 and transformers 4.30 read one."""
    from diffusers import AutoencoderKL, DDIMScheduler
    from tuneavideo.models.unet import UNet3DConditionModel

    def vae_name(name: str) -> str:
        attention = rf"(attentions\.\d+)\.({'|'.join(OLD_ATTENTION)})\."
        return re.sub(attention, lambda match: f"{match[1]}.{OLD_ATTENTION[match[2]]}.", name)

    def text_name(name: str) -> str:
        return f"text_model.{name.removeprefix('text_model.')}"

    vae = read(checkpoint / "vae" / "config.json")
    if vae.get("scaling_factor", VAE_SCALE) != VAE_SCALE:
        raise SystemExit(f"The original scales latents by {VAE_SCALE}, but this VAE needs {vae['scaling_factor']}.")
    unet = known(read(checkpoint / "unet" / "config.json"), UNet3DConditionModel)
    unet.pop("mid_block_type", None)  # it refuses to read its 2-D name
    text = read(checkpoint / "text_encoder" / "config.json")
    for name in ("dtype", "transformers_version"):
        text.pop(name, None)
    write(folder / "unet" / "config.json", unet)
    write(folder / "vae" / "config.json", known(vae, AutoencoderKL))
    write(folder / "text_encoder" / "config.json", text)
    schedule = known(read(checkpoint / "scheduler" / "scheduler_config.json"), DDIMScheduler)
    write(folder / "scheduler" / "scheduler_config.json", schedule)
    write_weights(checkpoint / "unet", folder / "unet" / "diffusion_pytorch_model.bin")
    write_weights(checkpoint / "vae", folder / "vae" / "diffusion_pytorch_model.bin", vae_name)
    write_weights(checkpoint / "text_encoder", folder / "text_encoder" / "pytorch_model.bin", text_name)
    shutil.copytree(checkpoint / "tokenizer", folder / "tokenizer")
    classes = {
        "vae": ("diffusers", "AutoencoderKL"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "scheduler": ("diffusers", "DDIMScheduler"),
    }
    write(folder / "model_index.json", {"_class_name": "TuneAVideoPipeline", **classes})


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def write(path: Path, config: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))


def known(config: dict, kind: type) -> dict:
    """The settings that this version of a class has."""
    names = inspect.signature(kind.__init__).parameters
    return {name: value for name, value in config.items() if name in names}


def write_weights(folder: Path, path: Path, rename=lambda name: name) -> None:
    import torch
    from safetensors.torch import load_file

    (file,) = folder.glob("*.safetensors")
    torch.save({rename(name): tensor.float() for name, tensor in load_file(file).items()}, path)


def keep_levels(kind: type, config: dict) -> None:
    """Lets the UNet have the levels of its checkpoint, where the original takes the four of Stable Diffusion."""
    names = ("down_block_types", "up_block_types")
    levels = {name: [block.replace("2D", "3D") for block in config[name]] for name in names}
    from_config = kind.from_config
    kind.from_config = lambda config, **options: from_config({**config, **levels}, **options)


def check_tokens(tokenizer, prompts: dict) -> None:
    """prompts: the token ids that ours has for each."""
    for prompt, ours in prompts.items():
        ids = tokenizer(prompt, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
        if ids != ours:
            raise SystemExit(f"The old tokenizer reads {prompt!r} as {ids}, but ours as {ours}.")


def main() -> None:
    job = json.loads(sys.argv[1])
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # accelerate would take a GPU
    import_original(job["checkout"])
    sys.modules["decord"].VideoReader = ClipReader
    import numpy as np
    import torch
    import train_tuneavideo
    from omegaconf import OmegaConf
    from safetensors.torch import save_file

    torch.set_num_threads(job["threads"])
    folder = Path(job["folder"])
    base = folder / "checkpoint"
    convert(Path(job["checkpoint"]), base)
    keep_levels(train_tuneavideo.UNet3DConditionModel, read(base / "unet" / "config.json"))
    check_tokens(train_tuneavideo.CLIPTokenizer.from_pretrained(base / "tokenizer"), job["tokens"])
    kept, losses = {}, []
    invert = train_tuneavideo.ddim_inversion

    def inversion(pipeline, *args, **options):
        kept["pipeline"], trajectory = pipeline, invert(pipeline, *args, **options)
        kept["noise"] = trajectory[-1]
        return trajectory

    def keep_videos(videos, path) -> None:  # the last call has all of them; a GIF would reduce their colours
        kept["edits"] = videos

    train_tuneavideo.ddim_inversion = inversion
    train_tuneavideo.save_videos_grid = keep_videos
    train_tuneavideo.Accelerator.log = lambda self, values, step: losses.append(values["train_loss"])

    clip, steps = folder / "clip.npy", job["steps"]
    frames, height, width, _ = np.load(clip).shape
    size = {"width": width, "height": height}
    validation = job["validation"]
    config = {
        "pretrained_model_path": str(base),
        "output_dir": str(folder / "output"),
        "train_data": {"video_path": str(clip), "prompt": job["prompt"], "n_sample_frames": frames, **size},
        "validation_data": {"video_length": frames, "use_inv_latent": True, **size, **validation},
        "validation_steps": steps,
        "max_train_steps": steps,
        "checkpointing_steps": steps + 1,
        "learning_rate": job["learning_rate"],
        "gradient_checkpointing": job["checkpointing"],
        "enable_xformers_memory_efficient_attention": False,
        "mixed_precision": "no",
        "seed": job["seed"],
    }
    train_tuneavideo.main(**OmegaConf.create(config))

    reconstruct = {"num_inference_steps": validation["num_inv_steps"], "guidance_scale": 1.0, **size}
    reconstruction = kept["pipeline"]("", frames, latents=kept["noise"], **reconstruct).videos
    videos = {"edits": kept["edits"], "reconstruction": reconstruction}
    videos = {name: video.permute(0, 2, 3, 4, 1).contiguous() for name, video in videos.items()}
    save_file({**videos, "losses": torch.tensor(losses)}, folder / "videos.safetensors")


if __name__ == "__main__":
    main()
