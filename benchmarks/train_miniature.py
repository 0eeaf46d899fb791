"""Trains the miniature Stable Diffusion of tav_core/demo from scratch, and what goes with it.

    python benchmarks/train_miniature.py --work train-miniature

In order: VAE, UNet with text encoder, the decoder once more, two LoRAs ("sks" draws bands, "paper" another style), a
pose ControlNet and a depth T2I-Adapter. Every stage saves its state in the work folder, and an interrupted run resumes
from there. On a GPU it takes minutes, on two CPU cores some hours. At the end, everything is in the folder `miniature`
of the work folder; `--install` copies it to where tav_core looks for it.
"""

import argparse
import copy
import hashlib
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import nn
from training import additions
from training.images import drawn, other_scenes, random_scenes
from training.loop import Length
from training.unet import DDIM, held_out_loss, train_unet
from training.vae import absorb_scale, encode, train_decoder, train_vae, vae_quality

from tav_core.demo.miniature import MINIATURE
from tav_core.world.draw import draw
from tav_core.world.vocabulary import WORDS, write_tokenizer

HELD_OUT = 512  # images


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
    run = {
        name: str(value)
        for name, value in vars(options).items()
        if name in ("images", "start") or name.endswith(("_steps", "_batch"))
    }
    scenes = random_scenes(32)
    shown = [draw(scene).tobytes() + scene.caption.encode() for scene in scenes]
    run["world"] = hashlib.sha256(b"".join((*shown, " ".join(WORDS).encode()))).hexdigest()
    if path.exists() and json.loads(path.read_text()) != run:
        parser.error(f"{path.parent} holds a run with other settings or another world; choose a new --work folder.")
    path.write_text(json.dumps(run, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("train-miniature"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=24000)
    lengths = (
        ("vae", 6000, " on crops of 64 pixels"),
        ("vae-whole", 3000, " on whole images"),
        ("decoder", 1500, ""),
        ("unet", 7500, ""),
        ("lora", 400, ""),
        ("control", 1500, ""),
    )
    for name, steps, what in lengths:
        shown = f"steps{what}, or seconds as in 90s; default: {steps}"
        parser.add_argument(f"--{name}-steps", type=Length.parse, default=Length(steps), metavar="N", help=shown)
    parser.add_argument(
        "--vae-batch", type=int, default=4, help="whole images in a step of the VAE; twice as many crops"
    )
    parser.add_argument("--decoder-batch", type=int, default=8)
    parser.add_argument("--unet-batch", type=int, default=32)
    parser.add_argument(
        "--start", type=Path, help="a miniature to go on from, with all its parts; its VAE, on whole images only"
    )
    parser.add_argument(
        "--compile", nargs="+", choices=("vae", "unet"), default=[], help="compile the training of these, in bfloat16"
    )
    parser.add_argument("--until", choices=("images", "vae", "unet", "decoder"), help="stop after this stage")
    parser.add_argument("--install", action="store_true", help="copy the result into tav_core/demo/miniature")
    options = parser.parse_args()
    if options.start:
        lacking = [part.name for part in MINIATURE.iterdir() if not (options.start / part.name).exists()]
        if lacking:
            parser.error(f"{options.start} lacks {', '.join(lacking)}; give a whole miniature, such as {MINIATURE}.")
    work, device = options.work, options.device
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")  # TF32
    folder = work / "miniature"
    folder.mkdir(parents=True, exist_ok=True)
    ensure_same_run(parser, work / "run.json", options)

    scenes = random_scenes(options.images)
    images, captions = drawn(work / "images.npy", scenes), [scene.caption for scene in scenes]
    others = drawn(work / "other-images.npy", other_scenes(1500))
    if options.until == "images":
        additions.draw_images(work)
        return
    vae = train_vae(
        work,
        torch.cat([images[:-HELD_OUT], others[:-100]]),
        options.vae_steps,
        options.vae_whole_steps,
        options.vae_batch,
        device,
        start=options.start,
        compiled="vae" in options.compile,
    )
    absorb_scale(vae, images, device)
    print(f"VAE on held-out images: {vae_quality(vae, images[-HELD_OUT:], device):.2f} dB", flush=True)
    if options.until == "vae":
        return
    latents = encode(work, "latents", vae, images, device)

    tokenizer = write_tokenizer(folder / "tokenizer")
    known = latents[:-HELD_OUT], captions[:-HELD_OUT]
    trained = train_unet(
        work,
        tokenizer,
        *known,
        options.unet_steps,
        options.unet_batch,
        device,
        start=options.start,
        compiled="unet" in options.compile,
    )
    loss = held_out_loss(trained, tokenizer, latents[-HELD_OUT:], captions[-HELD_OUT:], device)
    print(f"UNet on held-out images: loss {loss:.4f}", flush=True)
    if options.until == "unet":
        save_miniature(folder, vae, trained)
        return
    pairs = images[:-HELD_OUT], latents[:-HELD_OUT]
    train_decoder(work, vae, *pairs, options.decoder_steps, options.decoder_batch, device)
    print(f"VAE with sharpened decoder: {vae_quality(vae, images[-HELD_OUT:], device):.2f} dB", flush=True)
    save_miniature(folder, vae, trained)
    if options.until == "decoder":
        return

    for name in ("sks", "paper"):
        lora = additions.train_lora(work, name, 4, tokenizer, vae, trained, options.lora_steps, device, options.start)
        additions.save_lora(lora, additions.lora_file(folder, name))
    for kind, train in (("pose", additions.train_pose_controlnet), ("depth", additions.train_depth_adapter)):
        network = train(work, tokenizer, vae, trained, options.control_steps, device, options.start)
        copy.deepcopy(network).half().to("cpu").save_pretrained(folder / kind)

    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")
    if options.install:
        shutil.copytree(folder, MINIATURE, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
