"""Edits clips of the drawn world with the original and with ours, judges all by the ideal, and prints a Markdown table.

See README.md in this folder.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file
from torch import Tensor

from tav_core import (
    Checkpoint,
    NoisePredictor,
    TavError,
    TuneConfig,
    guided,
    inflate,
    invert,
    load_checkpoint,
    sample,
    tune,
)
from tav_core.demo.miniature import miniature_path
from tav_core.demo.settings import SETTINGS, Settings
from tav_core.evaluation.report import table
from tav_core.files import read_tensors, write_tensors
from tav_core.fingerprints import digest_of, key_of, schedule_of
from tav_core.jobs.base import versions
from tav_core.metrics import peak_signal_to_noise
from tav_core.video.contact_sheet import contact_sheet
from tav_core.world.draw import draw_clip
from tav_core.world.judge import Judge
from tav_core.world.protocol import WorldClip, clips_to_report

WORKER = Path(__file__).with_name("original_quality_worker.py")
FORMAT = "tune-a-video/original-quality/1"
FIRST_PLANS = ("line", "walk", "leave", "two")  # few clips should differ as much as possible
ORIGINAL, AS_ORIGINAL, OURS = "original", "ours as the original", "ours by default"

Videos = Mapping[str, Tensor]
"""edits (e, f, h, w, 3) and reconstruction (1, f, h, w, 3) in 0..1, and the losses of tuning."""


@dataclass(frozen=True)
class Column:
    """A column of the table. right: the best value; the worst edit is the one farthest from it."""

    title: str
    right: float
    digits: int = 2
    scale: float = 1.0

    def cell(self, values: Sequence[float]) -> str:
        """The mean, and in brackets the worst."""
        if not values:
            return "-"
        worst = max(values, key=lambda value: abs(value - self.right))
        return "{:.{d}f} ({:.{d}f})".format(*(self.scale * value for value in (np.mean(values), worst)), d=self.digits)


COLUMNS = {
    "edit_right": Column("edit right, %", 1, 0, 100),
    "iou": Column("IoU", 1),
    "worst_iou": Column("worst frame's IoU", 1),
    "size_ratio": Column("size ratio", 1),
    "size_jump": Column("largest size jump, %", 0, 0, 100),
    "centre_error": Column("centre error, px", 0, 1),
    "jitter": Column("jitter, px", 0, 1),
    "background_psnr": Column("background, dB", 100, 1),
    "trajectory_correlation": Column("trajectory correlation", 1),
    "size_spread": Column("size spread, %", 0, 1, 100),
    "reconstruction_psnr": Column("reconstruction, dB", 100, 1),
}


def chosen(count: int) -> list[WorldClip]:
    clips = clips_to_report()
    first = [clip for name in FIRST_PLANS for clip in clips if clip.plan.name == name]
    return [*first, *(clip for clip in clips if clip not in first)][:count]


def run_original(
    clip: WorldClip, frames: np.ndarray, checkpoint: Checkpoint, settings: Settings, options: argparse.Namespace
) -> Videos:
    """Runs the original in its own process, in a folder that is removed afterwards."""
    prompts, tokenizer = ["", clip.prompt, *(edit.prompt for edit in clip.edits)], checkpoint.tokenizer
    ids = tokenizer(prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        np.save(Path(folder, "clip.npy"), frames)
        job = {
            "checkout": os.path.abspath(options.original),
            "checkpoint": os.path.abspath(options.checkpoint),
            "folder": os.path.abspath(folder),
            "threads": options.threads,
            "tokens": dict(zip(prompts, ids, strict=True)),
            "prompt": clip.prompt,
            "steps": settings.tuning_steps,
            "learning_rate": settings.learning_rate,
            "checkpointing": options.checkpointing,
            "seed": clip.number,
            "validation": {
                "prompts": prompts[2:],
                "num_inference_steps": settings.steps,
                "num_inv_steps": settings.inversion_steps,
                "guidance_scale": settings.guidance_scale,
            },
        }
        log = options.work / f"{clip.name}.original.log"
        with log.open("w") as file:
            command = [options.original_python, str(WORKER), json.dumps(job)]
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            raise SystemExit(f"The original failed on {clip.name}; {log} ends with:\n{log.read_text()[-2000:]}")
        return load_file(Path(folder, "videos.safetensors"))


def run_ours(
    clip: WorldClip, frames: np.ndarray, checkpoint: Checkpoint, settings: Settings, *, posterior: bool
) -> Videos:
    """posterior: tunes on samples of the VAE's posterior and inverts one, instead of its mean."""
    latents = checkpoint.encode_video(torch.from_numpy(frames).float() / 255, posterior)
    unet, scheduler = inflate(copy.deepcopy(checkpoint.unet), group_norm=settings.group_norm), checkpoint.scheduler
    config = TuneConfig(num_steps=settings.tuning_steps, learning_rate=settings.learning_rate, seed=clip.number)
    prompt = checkpoint.encode_prompt(clip.prompt)
    report = tune(unet, latents, prompt, DDPMScheduler.from_config(scheduler.config), config)
    if posterior:
        mean, std = latents
        latents = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(clip.number))
    empty = NoisePredictor(unet, checkpoint.encode_prompt(""), scheduler)
    edits = NoisePredictor(unet, checkpoint.encode_prompt([edit.prompt for edit in clip.edits]), scheduler)
    noise = invert(empty, latents, scheduler, settings.inversion_steps)[-1]
    noises = noise.expand(len(clip.edits), -1, -1, -1, -1)
    edited = sample(guided(edits, empty, settings.guidance_scale), noises, scheduler, settings.steps)
    reconstruction = sample(empty, noise, scheduler, settings.inversion_steps)
    return {
        "edits": torch.stack([checkpoint.decode_video(video) for video in edited.split(1)]),
        "reconstruction": checkpoint.decode_video(reconstruction)[None],
        "losses": torch.tensor(report.losses),
    }


def kept(path: Path, key: str, make: Callable[[], Videos]) -> Videos:
    """The videos in the file, if they were made with the same key; else makes and writes them."""
    try:
        videos, metadata = read_tensors(path, FORMAT)
        if metadata.get("key") == key:
            return videos
    except TavError:
        pass  # missing or damaged
    began = time.perf_counter()
    videos = make()
    write_tensors(path, videos, FORMAT, {"key": key})
    print(f"{path.stem}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return videos


def with_references(clip: WorldClip, source: Tensor, sides: Mapping[str, Videos], checkpoint: Checkpoint) -> dict:
    """Videos for all rows of the table: what is best, the sides, and what should be caught as useless."""

    def through_vae(frames: Tensor) -> Tensor:
        return checkpoint.decode_video(checkpoint.encode_video(frames))

    ideals = [edit.ideal(len(source)) for edit in clip.edits]
    middle = (len(source) - 1) // 2
    return {
        "the ideal": {"edits": ideals},
        "the ideal through the VAE": {
            "edits": [through_vae(ideal) for ideal in ideals],
            "reconstruction": [through_vae(source)],
        },
        **sides,
        "one frame, frozen": {"edits": [ideal[middle : middle + 1].expand_as(ideal) for ideal in ideals]},
        "the source": {"edits": [source] * len(ideals)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", help="checkout of the original; without it, only ours is judged")
    parser.add_argument("--original-python", help="Python of the environment with the original's old libraries")
    parser.add_argument("--checkpoint", type=Path, default=miniature_path(), help="diffusers folder; default: bundled")
    parser.add_argument("--work", type=Path, default=Path("original-quality"), help="folder that keeps all videos")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=SETTINGS.frames)
    parser.add_argument("--steps", type=int, default=SETTINGS.tuning_steps, help="of tuning")
    same = "for the original and for ours as the original; default: %(default)s, as for ours"
    parser.add_argument("--learning-rate", type=float, default=SETTINGS.learning_rate, help=same)
    parser.add_argument("--inversion-steps", type=int, default=SETTINGS.inversion_steps, help=same)
    parser.add_argument("--sampling-steps", type=int, default=SETTINGS.steps, help=same)
    parser.add_argument("--guidance", type=float, default=SETTINGS.guidance_scale, help=same)
    parser.add_argument(
        "--checkpointing",
        action="store_true",
        help="the original's default gradient checkpointing, with which its down blocks stay untrained",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", help="also write the figures of all edits to this file")
    options = parser.parse_args()
    if options.original and not options.original_python:
        parser.error("--original also needs --original-python")

    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    checkpoint = load_checkpoint(options.checkpoint)
    default = replace(SETTINGS, tuning_steps=options.steps, frames=options.frames)
    as_original = replace(
        default,
        learning_rate=options.learning_rate,
        inversion_steps=options.inversion_steps,
        steps=options.sampling_steps,
        guidance_scale=options.guidance,
        group_norm="video",
    )
    ways = {
        ORIGINAL: (partial(run_original, options=options), as_original),
        AS_ORIGINAL: (partial(run_ours, posterior=True), as_original),
        OURS: (partial(run_ours, posterior=False), default),
    }
    if not options.original:
        del ways[ORIGINAL]
    networks = checkpoint.unet, checkpoint.vae, checkpoint.text_encoder
    base = [*map(digest_of, networks), schedule_of(checkpoint.scheduler), versions()]

    rows: dict[str, list[dict]] = {}
    losses: dict[str, list[float]] = {side: [] for side in ways}
    for clip in chosen(options.clips):
        drawn = draw_clip(clip.scenes(options.frames))
        source, sides = torch.from_numpy(drawn).float() / 255, {}
        for side, (run, settings) in ways.items():
            path = options.work / f"{clip.name}.{side.replace(' ', '-')}.safetensors"
            checkpointing = side == ORIGINAL and options.checkpointing
            key = key_of(source, side=side, settings=asdict(settings), checkpointing=checkpointing, base=base)
            sides[side] = kept(path, key, partial(run, clip, drawn, checkpoint, settings))
            losses[side] += sides[side]["losses"].tolist()
        judges = [Judge(edit, options.frames) for edit in clip.edits]
        sheet = [(f"source: {clip.prompt}", source)]
        for row, videos in with_references(clip, source, sides, checkpoint).items():
            for judge, video in zip(judges, videos["edits"], strict=True):
                rows.setdefault(row, []).append({"clip": clip.name, "edit": judge.edit.prompt} | judge.figures(video))
            for video in videos.get("reconstruction", []):
                rows[row].append({"clip": clip.name, "reconstruction_psnr": peak_signal_to_noise(video, source)})
        for number, edit in enumerate(clip.edits):
            sheet += [(f"{side}: {edit.prompt}", videos["edits"][number]) for side, videos in sides.items()]
        contact_sheet(options.work / f"{clip.name}.png", sheet)

    cells = [
        [row, *(column.cell([one[name] for one in all_figures if name in one]) for name, column in COLUMNS.items())]
        for row, all_figures in rows.items()
    ]
    print(table(["mean (worst edit)", *(column.title for column in COLUMNS.values())], cells))
    print("\nMean loss of tuning:", ", ".join(f"{side} {np.mean(each):.4f}" for side, each in losses.items()))
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
