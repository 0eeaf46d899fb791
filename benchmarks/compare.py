"""Ours beside the original, step by step, in one run; prints a Markdown table. See README.md in this folder."""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
JOBS = {"tune": (False, True), "invert": (False,), "sample": (False,)}


def measure(python: str, worker: str, config: dict) -> dict:
    """Runs one configuration in a process of its own, so that its peak memory is its own."""
    command = [python, str(HERE / worker), json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not results:
        raise SystemExit(f"{worker} failed on {config}:\n{done.stderr[-2000:]}")
    return json.loads(results[0].removeprefix("RESULT "))


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--original", help="checkout of the original; without it, ours alone is timed")
    parser.add_argument("--original-python", help="Python of the environment with the original's old libraries")
    parser.add_argument("--jobs", default=",".join(JOBS), help="tune, invert, sample")
    parser.add_argument("--frames", type=numbers, default=[4, 8])
    parser.add_argument("--sizes", type=numbers, default=[16, 32], help="of the latents, an eighth of the picture's")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per process, after one to warm up")
    parser.add_argument("--rounds", type=int, default=1, help="processes of each side, in turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", help="also writes all figures to this file")
    given = parser.parse_args()
    if given.original and not given.original_python:
        parser.error("--original needs --original-python as well")
    sides = {"ours": (sys.executable, "ours_worker.py")}
    if given.original:
        sides = {"original": (given.original_python, "original_worker.py"), **sides}

    print("| job | frames | latents | checkpointing | original s | ours s | ratio | original GiB | ours GiB | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    for size, frames, job in itertools.product(given.sizes, given.frames, given.jobs.split(",")):
        for checkpointing in JOBS[job]:
            config = {"job": job, "frames": frames, "size": size, "steps": given.steps, "threads": given.threads}
            config |= {"checkpointing": checkpointing, "checkout": given.original}
            runs = {side: [] for side in sides}
            for _, (side, how) in itertools.product(range(given.rounds), sides.items()):
                runs[side].append(measure(*how, config))
            seconds = {side: statistics.median(s for run in runs[side] for s in run["seconds"]) for side in sides}
            peak = {side: max(run["peak_gib"] for run in runs[side]) for side in sides}
            rows.append(config | {"seconds": seconds, "peak_gib": peak, "runs": runs})
            cells = [job, frames, f"{size}x{size}", "on" if checkpointing else "off"]
            for figure in (seconds, peak):
                cells += [f"{figure['original']:.2f}" if "original" in figure else "", f"{figure['ours']:.2f}"]
                cells += [f"{figure['ours'] / figure['original']:.2f}" if "original" in figure else ""]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
