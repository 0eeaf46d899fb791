"""Frames in between and frames that follow, with the miniature on held-out clips of the drawn world.

    python benchmarks/known_frames.py --json known.json --clips line arc walk

In between: a clip of 15 frames is known at every second one; the network is tuned on these eight, and makes the seven
that were withheld. Beside it: the nearest known frame, the average of both neighbours, and both neighbours warped along
their optical flow (OpenCV's DIS). All of them start from the known frames as the VAE decodes them, which is what there
is after an edit; "VAE" are the withheld frames themselves, encoded and decoded.

Onwards (and backwards): of a clip of 16 frames, eight are known, and the network tuned on them makes the other eight.
Beside it: the outermost known frame again, and what goes on along its optical flow, from which the network starts.

--plain tunes as for edits, without known frames: the network is shown none, but at each step they are put back.
"""

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from tav_core import NoisePredictor, TuneConfig, guided, inflate, load_checkpoint, tune
from tav_core.demo.miniature import miniature_path
from tav_core.demo.settings import SETTINGS
from tav_core.fill import Filling, averaged, between, extend, fill, interpolate
from tav_core.known_frames import Known
from tav_core.metrics import peak_signal_to_noise, trajectory_correlation
from tav_core.video.continuation import continued_by_flow
from tav_core.video.flow import interpolated_by_flow
from tav_core.video.pixels import to_uint8
from tav_core.world.draw import draw_clip, truth
from tav_core.world.protocol import WorldClip, clips_to_choose_by, clips_to_report
from tav_core.world.readers import read_image


class Tuned:
    """A network tuned on known frames of a clip, (f, 128, 128, 3) in 0..1."""

    def __init__(self, clip: WorldClip, frames: Tensor, options: argparse.Namespace):
        self.checkpoint, self.clip = load_checkpoint(miniature_path()), clip
        self.scheduler = self.checkpoint.scheduler
        self.unet = inflate(
            self.checkpoint.unet,
            group_norm=SETTINGS.group_norm,
            known_frames=not options.plain,
            **options.inflation,
        )
        self.latents = self.checkpoint.encode_video(frames)
        self.prompt, self.empty = (self.checkpoint.encode_prompt(text) for text in (clip.prompt, ""))
        self.guidance = options.guidance
        config = TuneConfig(num_steps=options.tuning_steps, learning_rate=options.learning_rate)
        began = time.perf_counter()
        schedule = DDPMScheduler.from_config(self.scheduler.config)
        self.losses = tune(self.unet, self.latents, self.prompt, schedule, config).losses
        self.seconds = time.perf_counter() - began

    def predictor(self, known: Known):
        shown = known if self.unet.inflation.known_frames else None
        cond, uncond = (
            NoisePredictor(self.unet, prompt, self.scheduler, known=shown) for prompt in (self.prompt, self.empty)
        )
        return guided(cond, uncond, self.guidance)

    def decoded(self, latents: Tensor) -> Tensor:
        return self.checkpoint.decode_video(latents)


def in_between(clip: WorldClip, options: argparse.Namespace) -> dict:
    scenes = clip.scenes(15)
    frames = torch.from_numpy(draw_clip(scenes)).float() / 255
    tuned = Tuned(clip, frames[::2], options)
    scheduler, filling = tuned.scheduler, Filling(num_steps=SETTINGS.steps)
    known, decoded = between(tuned.latents, 2), tuned.decoded(tuned.latents)
    flow = torch.stack(list(interpolated_by_flow(decoded, 2)))
    guesses = {"average": averaged(known), "flow": tuned.checkpoint.encode_video(flow)}
    made = {
        "VAE": tuned.decoded(tuned.checkpoint.encode_video(frames)),
        "ours": tuned.decoded(interpolate(tuned.predictor, tuned.latents, 2, scheduler, filling)),
    }
    for trust in options.trust:
        for name, guess in guesses.items():
            latents = fill(tuned.predictor, known, scheduler, filling, guess=guess, trust=trust)
            made[f"ours from the {name}, {trust}"] = tuned.decoded(latents)
        corrected = made[f"ours from the flow, {trust}"] - tuned.decoded(guesses["flow"])
        made[f"flow, corrected by ours, {trust}"] = (flow + corrected).clamp(0, 1)
    made |= {
        "nearest": decoded.repeat_interleave(2, dim=0)[:-1],
        "average": ((decoded[:-1] + decoded[1:]) / 2).repeat_interleave(2, dim=0)[[0, *range(14)]],
        "flow": flow,
        "flow through the VAE": tuned.decoded(guesses["flow"]),
    }
    return {name: scores(video[1::2], frames[1::2], clip, scenes[1::2]) for name, video in made.items()} | {
        "tuning": {"seconds": tuned.seconds, "last losses": float(np.mean(tuned.losses[-20:]))}
    }


def onwards(clip: WorldClip, options: argparse.Namespace, *, backwards: bool) -> dict:
    scenes = clip.scenes(16)
    frames = torch.from_numpy(draw_clip(scenes)).float() / 255
    shown, hidden = (slice(8, 16), slice(0, 8)) if backwards else (slice(0, 8), slice(8, 16))
    tuned = Tuned(clip, frames[shown], options)
    filling, decoded = Filling(num_steps=SETTINGS.steps), tuned.decoded(tuned.latents)
    flow = torch.stack(list(continued_by_flow(decoded, 8, "backwards" if backwards else "onwards")))
    guess = tuned.checkpoint.encode_video(flow)
    made = {
        "VAE": tuned.decoded(tuned.checkpoint.encode_video(frames))[hidden],
        "the outermost frame again": decoded[[0 if backwards else -1] * 8],
        "flow": flow,
        "flow through the VAE": tuned.decoded(guess),
    }
    ways = {"ours": {}} | {f"ours from the flow, {trust}": {"guess": guess, "trust": trust} for trust in options.trust}
    ways |= {f"ours, correction {share}": {"correction": share} for share in options.correction}
    for name, way in ways.items():
        latents = extend(tuned.predictor, tuned.latents, 8, tuned.scheduler, filling, backwards=backwards, **way)
        made[name] = tuned.decoded(latents)[hidden]
        if "guess" in way:
            corrected = made[name] - made["flow through the VAE"]
            made[f"flow, corrected by ours, {way['trust']}"] = (flow + corrected).clamp(0, 1)
    sheet = options.json.with_name(f"{options.json.stem}.{clip.plan.name}.{'back' if backwards else 'on'}.png")
    save(sheet, [frames[shown], frames[hidden], *made.values()])
    return {name: scores(video, frames[hidden], clip, scenes[hidden]) for name, video in made.items()}


def scores(video: Tensor, truths: Tensor, clip: WorldClip, scenes: list) -> dict:
    """psnr: over all pixels. path: the correlation of the thing's centres with the true ones. centre: the largest
    error, as a share of the width. kept: the share of frames with its colour and kind."""
    thing = clip.clip.scene.things[0]
    readings = [read_image(image) for image in to_uint8(video)]
    seen = [reading.thing(thing.colour) for reading in readings]
    wanted = [truth(scene).centres[0] for scene in scenes]
    found = [one and one.centre for one in seen]
    pairs = [(a, b) for a, b in zip(found, wanted, strict=True) if b is not None]
    errors = [0.5 if a is None else float(np.hypot(*np.subtract(a, b))) for a, b in pairs]
    return {
        "psnr": peak_signal_to_noise(video, truths),
        "centre": max(errors),
        "path": trajectory_correlation(found, wanted),
        "kept": float(np.mean([one is not None and one.kind == thing.kind for one in seen])),
    }


def save(path: Path, rows: list[Tensor]) -> None:
    sheet = np.concatenate([np.concatenate(list(to_uint8(row)), axis=1) for row in rows])
    cv2.imwrite(str(path), sheet[..., ::-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [clip.plan.name for clip in clips_to_report()]
    parser.add_argument("--clips", nargs="+", choices=names, default=["line", "arc", "walk"], metavar="PLAN")
    parser.add_argument(
        "--tasks", nargs="+", choices=("between", "onwards", "backwards"), default=["between", "onwards"]
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--tuning-steps", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=SETTINGS.learning_rate)
    parser.add_argument("--inflation", type=json.loads, default={}, help="other fields of Inflation, as JSON")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--trust", nargs="*", type=float, default=[0.6, 0.8])
    parser.add_argument("--correction", nargs="*", type=float, default=[])
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--choosing", action="store_true", help="clips for choosing settings, not those of the report")
    options = parser.parse_args()
    results = json.loads(options.json.read_text()) if options.json.exists() else {}
    for clip in clips_to_choose_by() if options.choosing else clips_to_report():
        if clip.plan.name not in options.clips:
            continue
        for task in options.tasks:
            name = f"{clip.plan.name} {task}"
            if name not in results:
                back = {} if task == "between" else {"backwards": task == "backwards"}
                results[name] = (in_between if task == "between" else onwards)(clip, options, **back)
                options.json.write_text(json.dumps(results, indent=1) + "\n")
            for way, found in results[name].items():
                print(name, way, {key: round(value, 3) for key, value in found.items()}, flush=True)


if __name__ == "__main__":
    main()
