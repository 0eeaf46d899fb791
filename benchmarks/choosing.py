"""Edits of the clips for choosing settings, with the miniature, and tables of what each choice gave."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from tav_core.evaluation.evaluate import Outcome
from tav_core.world.protocol import PLANS, WorldClip, clips_to_choose_by

FIGURES = ("edit_right", "iou", "largest_centre_error", "jitter", "size_jump", "background_psnr", "other_psnr")
HIGHER_IS_WORSE = ("largest_centre_error", "jitter", "size_jump")
KINDS = (("object", "attribute"), ("background", "style"))


def choosing_parser(description: str, work: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(work), help="keeps samples, so that a run can go on")
    parser.add_argument("--json", type=Path, help="where all figures go")
    names = [plan.name for plan in PLANS]
    parser.add_argument("--clips", nargs="+", choices=names, default=names, metavar="PLAN", help=", ".join(names))
    parser.add_argument("--only", nargs="*", default=(), help="choices of these names, or whose names start so")
    parser.add_argument("--threads", type=int)
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def chosen_clips(options: argparse.Namespace) -> list[WorldClip]:
    return [clip for clip in clips_to_choose_by() if clip.plan.name in options.clips]


def chosen_of(options: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """The choices that --only asks for; exits where it names none."""
    names = list(names)
    if not options.only:
        return names
    for each in options.only:
        if not any(name.startswith(each) for name in names):
            raise SystemExit(f"No choice begins with {each!r}; there are: {'; '.join(names)}.")
    beginnings = tuple(each for each in options.only if each not in names)
    return [name for name in names if name in options.only or name.startswith(beginnings)]


class Table:
    """Gathers the figures of each choice's edits, and says a line about each outcome."""

    def __init__(self, options: argparse.Namespace):
        self.json, self.measured = options.json, {}

    def add(self, choice: str, outcome: Outcome) -> None:
        edits = [
            {"clip": outcome.clip.name, "kind": kind} | figures for kind, figures in outcome.figures.items() if kind
        ]
        self.measured.setdefault(choice, []).extend(edits)
        if self.json:
            self.json.write_text(json.dumps(self.measured, indent=1) + "\n")
        if not outcome.is_reference:
            means = ", ".join(f"{figure} {_mean(edits, figure):.3g}" for figure in FIGURES[:4])
            print(outcome.clip.name, choice, means, flush=True)

    def show(self) -> None:
        for kinds in KINDS:
            print(f"\n| {' and '.join(kinds)} edits: mean (worst) | {' | '.join(FIGURES)} |")
            print(f"| --- |{' ---: |' * len(FIGURES)}")
            for choice, edits in self.measured.items():
                own = [edit for edit in edits if edit["kind"] in kinds]
                print(f"| {choice} | {' | '.join(_cell(own, figure) for figure in FIGURES)} |")


def _mean(edits: Iterable[dict], figure: str) -> float:
    return float(np.mean([edit[figure] for edit in edits if figure in edit]))


def _cell(edits: list[dict], figure: str) -> str:
    values = [edit[figure] for edit in edits if figure in edit]
    if not values:
        return "-"
    worst = max if figure in HIGHER_IS_WORSE else min
    return f"{np.mean(values):.3g} ({worst(values):.3g})"
