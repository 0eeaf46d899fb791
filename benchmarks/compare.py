"""Times ours and the original in one run and prints a Markdown table; see README.md in this folder."""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
JOBS = {"tune": (False, True), "invert": (False,), "sample": (False,)}  # job -> gradient checkpointing
HEAD = """\
| job | frames | latents | checkpointing | original s | ours s | ratio | original GiB | ours GiB | ratio |
|---|---|---|---|---|---|---|---|---|---|"""


def measure(python: str, worker: str, config: dict) -> dict:
    """Runs one configuration in its own process, so that the peak memory is that of this configuration."""
    command = [python, str(HERE / worker), json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not results:
        raise SystemExit(f"{worker} failed on {config}:\n{done.stderr[-2000:]}")
    return json.loads(results[0].removeprefix("RESULT "))


def torch_build(python: str) -> str:
    """The version of torch that a Python imports, with its build, such as 2.11.0+cpu."""
    command = [python, "-c", "import torch; print(torch.__version__)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python} cannot import torch:\n{done.stderr[-2000:]}")
    return done.stdout.strip()


def caption(builds: dict[str, str], *, force: bool) -> str:
    """Names the torch build of each side; exits if they differ, unless forced, as their libraries count as memory."""
    named = ", ".join(f"{side}: torch {build}" for side, build in builds.items())
    if len(set(builds.values())) > 1 and not force:
        raise SystemExit(
            f"The two sides use different builds of torch ({named}), so their times and memory do not compare. "
            "Install the same build for both, or pass --force."
        )
    return named


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--original", help="checkout of the original; without it, only ours is timed")
    parser.add_argument("--original-python", help="Python of the environment with the original's old libraries")
    parser.add_argument("--jobs", default=",".join(JOBS), help="comma-separated; default: all")
    parser.add_argument("--frames", type=numbers, default=[4, 8])
    parser.add_argument("--sizes", type=numbers, default=[16, 32], help="of the latents, 1/8 of the image size")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per process, after one warm-up step")
    parser.add_argument("--rounds", type=int, default=1, help="processes per side, alternating")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", help="also write all measurements to this file")
    parser.add_argument("--force", action="store_true", help="compare different builds of torch anyway")
    args = parser.parse_args()
    if args.original and not args.original_python:
        parser.error("--original also needs --original-python")
    sides = {"ours": (sys.executable, "ours_worker.py")}
    if args.original:
        sides = {"original": (args.original_python, "original_worker.py"), **sides}
    builds = {side: torch_build(python) for side, (python, _) in sides.items()}
    print(caption(builds, force=args.force), HEAD, sep="\n\n", flush=True)
    rows = []
    for size, frames, job in itertools.product(args.sizes, args.frames, args.jobs.split(",")):
        for checkpointing in JOBS[job]:
            config = {"job": job, "frames": frames, "size": size, "steps": args.steps, "threads": args.threads}
            config |= {"checkpointing": checkpointing, "checkout": args.original}
            runs = {side: [] for side in sides}
            for _, (side, worker) in itertools.product(range(args.rounds), sides.items()):
                runs[side].append(measure(*worker, config))
            seconds = {side: statistics.median(s for run in runs[side] for s in run["seconds"]) for side in sides}
            peak = {side: max(run["peak_gib"] for run in runs[side]) for side in sides}
            rows.append(config | {"torch": builds, "seconds": seconds, "peak_gib": peak, "runs": runs})
            cells = [job, frames, f"{size}x{size}", "on" if checkpointing else "off"]
            for measured in (seconds, peak):
                cells += [f"{measured['original']:.2f}" if "original" in measured else "", f"{measured['ours']:.2f}"]
                cells += [f"{measured['ours'] / measured['original']:.2f}" if "original" in measured else ""]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
