"""Long clips in windows: what they cost and what they change, with the miniature on the demo's clip.

    python benchmarks/windows.py --json windows.json 32:0 32:8 64:16 128:16

Each FRAMES:WINDOW (0: the whole clip at once) tunes on the clip, inverts it, and makes the demo's edits. The table has
the largest live memory of a guided prediction, seconds per tuning step and per frame of an edit, and how good the edits
are: the mean and, in brackets, the worst edit; the warp error of neighbouring frames that share all their windows, and
of those at the seams between windows.

    python benchmarks/windows.py --time 16:0 64:16 128:16

compares processor times alone: all cases in turn, the fastest of five rounds each.
"""

import argparse
import json
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from tav_core import NoisePredictor, TuneConfig, guided, inflate, invert, load_checkpoint, sample, tune
from tav_core.ddim import source_path
from tav_core.demo.miniature import miniature_path
from tav_core.demo.settings import SETTINGS
from tav_core.demo.showcase import CLIP, KEEP
from tav_core.layout import align
from tav_core.lend import lent
from tav_core.memory import LiveBytes
from tav_core.metrics import warp_error
from tav_core.source import Lender
from tav_core.windows import Windows, windowed
from tav_core.world.draw import draw_clip
from tav_core.world.judge import Edit, Judge

EDITS = {
    "background": {"ground": "beach"},
    "attribute": {"colour": "purple"},
    "object": {"colour": "yellow", "kind": "star"},
    "style": {"style": "cartoon"},
}
FIGURES = ("edit_right", "iou", "trajectory_correlation", "largest_centre_error")


def measured(frames: int, window: int) -> dict:
    checkpoint, windows = load_checkpoint(miniature_path()), Windows(window, window // 4)
    clip = torch.from_numpy(draw_clip(CLIP.scenes(frames))).float() / 255
    latents, scheduler = checkpoint.encode_video(clip), checkpoint.scheduler
    unet = inflate(checkpoint.unet, group_norm=SETTINGS.group_norm)
    config = TuneConfig(num_steps=SETTINGS.tuning_steps, learning_rate=SETTINGS.learning_rate, window=window)
    caption = CLIP.scene.caption
    began = time.perf_counter()
    tune(unet, latents, checkpoint.encode_prompt(caption), DDPMScheduler.from_config(scheduler.config), config)
    result = {"tuning step s": (time.perf_counter() - began) / config.num_steps}

    def predictor(prompt: str) -> NoisePredictor:
        return NoisePredictor(unet, checkpoint.encode_prompt(prompt), scheduler)

    plain = windowed(guided(predictor(caption), predictor(""), SETTINGS.guidance_scale), windows)
    with torch.no_grad(), LiveBytes(unet) as live:
        plain(latents, 500)
    result["prediction MiB"] = live.peak / 2**20
    trajectory = invert(windowed(predictor(""), windows), latents, scheduler, SETTINGS.inversion_steps)
    path = source_path(trajectory, scheduler, SETTINGS.inversion_steps)
    figures, seconds = [], 0.0
    for kind, change in EDITS.items():
        edit = edit_of(kind, change)
        began = time.perf_counter()
        with lent(unet) as loan:
            lender = Lender(loan, predictor(caption), path, KEEP)
            layout = align(checkpoint.tokens(caption), checkpoint.tokens(edit.prompt))
            cond = lender.borrowing(predictor(edit.prompt), layout)
            predict = windowed(guided(cond, lender.borrowing(predictor("")), SETTINGS.guidance_scale), windows)
            edited = sample(predict, trajectory[-1], scheduler, SETTINGS.steps)
        seconds += time.perf_counter() - began
        video = checkpoint.decode_video(edited)
        found = Judge(edit, frames).figures(video)
        figures.append({name: found[name] for name in FIGURES} | warps(video, windows))
        print(f"{frames}:{window} {edit.prompt}: {figures[-1]}", flush=True)
    result["edit s per frame"] = seconds / len(EDITS) / frames
    return result | {name: [figure[name] for figure in figures if name in figure] for name in figures[0]}


def timed(cases: list[tuple[int, int]], rounds: int = 5) -> dict[str, dict]:
    """Seconds of processor time a frame of a guided prediction, and a tuning step."""
    checkpoint = load_checkpoint(miniature_path())
    unet, scheduler = inflate(checkpoint.unet, group_norm=SETTINGS.group_norm), checkpoint.scheduler
    schedule, prompt = DDPMScheduler.from_config(scheduler.config), checkpoint.encode_prompt(CLIP.scene.caption)
    predict = guided(NoisePredictor(unet, prompt, scheduler), NoisePredictor(unet, prompt, scheduler), 2.5)
    found = {case: ([], []) for case in cases}
    for _ in range(rounds):
        for (frames, window), (predictions, steps) in found.items():
            latents = torch.randn(1, 4, frames, 16, 16)
            began = time.process_time()
            with torch.no_grad():
                windowed(predict, Windows(window, window // 4))(latents, 500)
            predictions.append((time.process_time() - began) / frames)
            began = time.process_time()
            tune(unet, latents, prompt, schedule, TuneConfig(num_steps=2, window=window))
            steps.append((time.process_time() - began) / 2)
    return {
        f"{frames}:{window}": {"prediction s per frame": min(predictions), "tuning step s": min(steps)}
        for (frames, window), (predictions, steps) in found.items()
    }


def edit_of(kind: str, change: dict) -> Edit:
    scene = CLIP.scene
    of_thing = {name: value for name, value in change.items() if name in ("colour", "kind")}
    of_scene = {name: value for name, value in change.items() if name not in of_thing}
    return Edit(kind, CLIP, replace(CLIP, scene=replace(scene.with_thing(0, **of_thing), **of_scene)))


def warps(video: Tensor, windows: Windows) -> dict[str, float]:
    """The warp error of neighbouring frames that share all windows, and of those that do not."""
    holds = [
        {number for number, window in enumerate(windows.over(len(video))) if f in window} for f in range(len(video))
    ]
    errors = {"warp inside": [], "warp at seams": []}
    for first, second in pairwise(range(1, len(video))):
        kind = "warp inside" if holds[first] == holds[second] else "warp at seams"
        errors[kind].append(warp_error(video[[first, second]]))
    return {kind: float(np.mean(found)) for kind, found in errors.items() if found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", help="FRAMES:WINDOW")
    parser.add_argument("--json", type=Path, help="keeps what was measured, so that an interrupted run goes on")
    parser.add_argument("--time", action="store_true")
    arguments = parser.parse_args()
    cases = [tuple(map(int, case.split(":"))) for case in arguments.cases]
    if arguments.time:
        return table(timed(cases))
    kept = arguments.json
    results = json.loads(kept.read_text()) if kept and kept.exists() else {}
    for case in cases:
        name = "{}:{}".format(*case)
        if name not in results:
            results[name] = measured(*case)
            if kept:
                kept.write_text(json.dumps(results, indent=1))
    table(results)


def table(results: dict[str, dict]) -> None:
    names = list(dict.fromkeys(name for result in results.values() for name in result))
    print("| frames:window | " + " | ".join(names) + " |\n|---" * 1 + "|---:" * len(names) + "|")
    for case, result in results.items():
        print(f"| {case} | " + " | ".join(cell(name, result.get(name)) for name in names) + " |")


def cell(name: str, value: float | list[float] | None) -> str:
    if not isinstance(value, list):
        return "" if value is None else f"{value:.3g}"
    worst = max(value) if "error" in name or "warp" in name else min(value)
    return f"{np.mean(value):.3g} ({worst:.3g})"


if __name__ == "__main__":
    main()
