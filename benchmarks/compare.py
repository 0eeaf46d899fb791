"""Times ours and the original in one run and prints a Markdown table; see README.md in this folder."""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
JOBS = {"tune": (False, True), "invert": (False,), "sample": (False,)}  # job -> gradient checkpointing
HEAD = """\
| job | frames | latents | checkpointing | original s | ours s | ratio | original GiB | ours GiB | ratio |
|---|---|---|---|---|---|---|---|---|---|"""


def run_python(python: str, path: str | None, *arguments: str) -> subprocess.CompletedProcess:
    """Runs a Python, with a folder in front of PYTHONPATH if one is given."""
    folders = [folder for folder in (path, os.environ.get("PYTHONPATH")) if folder]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    return subprocess.run([python, *arguments], capture_output=True, text=True, check=False, env=environment)


def measure(python: str, path: str | None, worker: str, config: dict) -> dict:
    """Runs one configuration in its own process, so that the peak memory is that of this configuration.

    Returns the seconds of each step and peak_gib, or why it `failed`, so that the other measurements go on.
    """
    done = run_python(python, path, str(HERE / worker), json.dumps(config))
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if results:
        return json.loads(results[0].removeprefix("RESULT "))
    print(f"{worker} failed on {config}:\n{done.stderr[-2000:]}", file=sys.stderr, flush=True)
    out_of_memory = re.search("out of memory|can't allocate|ALLOC_FAILED", done.stderr)
    return {"failed": "out of memory" if out_of_memory else "failed"}


def torch_build(python: str, path: str | None) -> str:
    """The version of torch that a Python imports, with its build, such as 2.11.0+cpu."""
    done = run_python(python, path, "-c", "import torch; print(torch.__version__)")
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


def summary(runs: list[dict]) -> dict:
    """The median seconds of a step and the largest peak_gib of one side's runs, or why one `failed`."""
    for run in runs:
        if "failed" in run:
            return run
    seconds = statistics.median(second for run in runs for second in run["seconds"])
    return {"seconds": seconds, "peak_gib": max(run["peak_gib"] for run in runs)}


def cells(original: dict, ours: dict, measured: str) -> list[str]:
    """One measured value of the original, of ours, and their ratio."""
    shown = [f"{side[measured]:.3g}" if measured in side else side.get("failed", "") for side in (original, ours)]
    comparable = measured in original and measured in ours
    return [*shown, f"{ours[measured] / original[measured]:.2f}" if comparable else ""]


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--original", help="checkout of the original; without it, only ours is timed")
    parser.add_argument("--original-python", help="Python of the environment with the original's old libraries")
    parser.add_argument(
        "--original-path",
        help="folder with the original's diffusers and huggingface_hub, in front of PYTHONPATH for the original alone; "
        "its Python is then this one by default",
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="no", choices=("no", "fp16", "bf16"))
    parser.add_argument("--jobs", default=",".join(JOBS), help="comma-separated; default: all")
    parser.add_argument("--frames", type=numbers, default=[4, 8])
    parser.add_argument("--sizes", type=numbers, default=[16, 32], help="of the latents, 1/8 of the image size")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per process, after one warm-up step")
    parser.add_argument("--rounds", type=int, default=1, help="processes per side, alternating")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", help="also write all measurements to this file")
    parser.add_argument("--force", action="store_true", help="compare different builds of torch anyway")
    args = parser.parse_args()
    if args.original and not (args.original_python or args.original_path):
        parser.error("--original also needs --original-python or --original-path")
    sides = {"ours": (sys.executable, None, "ours_worker.py")}
    if args.original:
        python = args.original_python or sys.executable
        sides = {"original": (python, args.original_path, "original_worker.py"), **sides}
    builds = {side: torch_build(python, path) for side, (python, path, _) in sides.items()}
    named = f"{caption(builds, force=args.force)}; device: {args.device}, precision: {args.precision}"
    print(named, HEAD, sep="\n\n", flush=True)
    rows = []
    for size, frames, job in itertools.product(args.sizes, args.frames, args.jobs.split(",")):
        for checkpointing in JOBS[job]:
            config = {"job": job, "frames": frames, "size": size, "steps": args.steps, "threads": args.threads}
            config |= {"checkpointing": checkpointing, "device": args.device, "precision": args.precision}
            config |= {"checkout": args.original, "among_newer": bool(args.original_path)}
            runs = {side: [] for side in sides}
            for _, (side, worker) in itertools.product(range(args.rounds), sides.items()):
                runs[side].append(measure(*worker, config))
            summaries = {side: summary(runs[side]) for side in sides}
            rows.append(config | {"torch": builds, "runs": runs} | summaries)
            row = [job, str(frames), f"{size}x{size}", "on" if checkpointing else "off"]
            for measured in ("seconds", "peak_gib"):
                row += cells(summaries.get("original", {}), summaries["ours"], measured)
            print("| " + " | ".join(row) + " |", flush=True)
            if args.json:
                Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
