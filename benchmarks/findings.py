"""Writes the figures of docs/findings.md anew: its tables, from docs/eval.json and docs/eval-16-frames.json.

    python benchmarks/findings.py

Only numbers change: which rows a table has, and all text, stay as they are, and what the text says about the numbers
must be read again. A test looks for differences. pictures.py draws its pictures.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from tav_core.evaluation.report import FIGURES, Values, by_clip, mean_of, read_json, worst_of

DOCS = Path(__file__).resolve().parents[1] / "docs"
FINDINGS = DOCS / "findings.md"
OURS = "full"

# The labels of rows -> variants and references of eval.json.
ROWS = {
    "the ideal through the VAE": "ideal-vae",
    "Tune-A-Video": OURS,
    "no tuning": "no-tuning",
    "no inversion: random noise": "no-inversion",
    "each frame attends to itself alone": "no-sparse-causal",
    "attention to the first frame only": "first-frame",
    "no temporal attention": "no-temporal",
    "factorised: only temporal attention tuned": "factorised",
    "frame by frame, from random noise": "text-to-image",
    "GroupNorm over the video, as in the original": "video-norm",
    "the same without tuning": "video-norm-no-tuning",
    "inversion in 50 steps": "50-inversion-steps",
    "inversion by fixed point": "fixed-point",
    "one frame, repeated": "frozen",
    "structure 0.8": "keep-structure",
    "layout 0.4": "keep-layout",
    "outside of the true mask": "keep-mask",
    "structure, layout, true mask": "keep-all",
    "structure, layout, true mask, guidance 4": "keep-all-guided",
    "structure, layout, true mask, fixed point": "keep-all-fixed-point",
    "structure, layout, mask from words": "keep-all-by-words",
    "ours (full)": OURS,
    "attention within a frame (factorised)": "factorised",
    "position bias": "position-bias",
    "position bias, a quarter of the steps on images": "joint-images",
    "merged by alpha": "alpha",
    "with a convolution over time": "convolution",
    "Make-A-Video": "make-a-video",
    "Video LDM": "video-ldm",
    "video diffusion models": "video-diffusion",
}
MAIN = {
    "edit right, %": ("edit_right", 0),
    "IoU with the ideal": ("iou", 2),
    "largest centre error, px": ("largest_centre_error", 1),
    "jitter, px": ("jitter", 1),
    "trajectory": ("trajectory_correlation", 2),
    "warp error, 10⁻³": ("warp_error", 2),
    "reconstruction, dB": ("reconstruction_psnr", 1),
}
KINDS = {"object": "object", "background": "background", "colour": "attribute", "style": "style"}
BY_KIND = [head for title in KINDS for head in (f"{title}: right, %", "IoU")]
NETWORKS = {
    "IoU with the ideal": ("iou", 3),
    "path": ("trajectory_correlation", 2),
    "largest centre error, px": ("largest_centre_error", 1),
    "jitter, px": ("jitter", 1),
    "edit right, %": ("edit_right", 0),
}
# How many edits reach what a good editor should. Columns: titles -> variants.
REACHING = {
    "plain": OURS,
    "structure": "keep-structure",
    "structure, layout, true mask": "keep-all",
    "the same, guidance 4": "keep-all-guided",
    "mask from words": "keep-all-by-words",
    "the ideal through the VAE": "ideal-vae",
}
ALL_KINDS = ("object", "background", "attribute", "style")
KEEPING_THE_GROUND = ("object", "attribute")
ONE_FRAME = 1 / 8
# Rows: figure, limit, kinds of edits.
REACHED = {
    "trajectory correlation of 0.985": ("trajectory_correlation", 0.985, ALL_KINDS),
    "largest centre error of 3 px": ("largest_centre_error", 3, ALL_KINDS),
    "jitter of 1.5 px": ("jitter", 1.5, ALL_KINDS),
    "size jumps of 6 %": ("size_jump", 0.06, ALL_KINDS),
    "IoU of 0.92 in colour edits": ("iou", 0.92, ("attribute",)),
    "IoU of 0.80 in object edits": ("iou", 0.80, ("object",)),
}

Cells = list[str | None]
"""A row's cells after the label; None for one that is no figure of eval.json."""


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    text = FINDINGS.read_text(encoding="utf-8")
    FINDINGS.write_text(renewed(text), encoding="utf-8")
    print(f"{len(differences(text))} cells of {FINDINGS.name} differed.")


def renewed(text: str) -> str:
    """The findings with each figure of eval.json as it is there."""
    lines = text.split("\n")
    for number, row, cells in _rows(text):
        lines[number] = _line([row[0], *(old if new is None else new for old, new in zip(row[1:], cells, strict=True))])
    return "\n".join(lines)


def differences(text: str) -> list[str]:
    """Each figure of the findings that is another in eval.json."""
    return [
        f"line {number + 1}, {row[0]}: {old}, but {new}"
        for number, row, cells in _rows(text)
        for old, new in zip(row[1:], cells, strict=True)
        if new is not None and old != new
    ]


def _rows(text: str) -> Iterator[tuple[int, list[str], Cells]]:
    """Of each table of figures from eval.json, each row: the line's number, its cells, and what they should be."""
    short, long = (read_json(DOCS / name) for name in ("eval.json", "eval-16-frames.json"))
    values, lines = short, text.split("\n")
    table: Callable[[str, list[str], Values], Cells] | None = None
    for number, line in enumerate(lines):
        if line.startswith("## "):
            values, table = long if line == "## 16 frames" else short, None
        if not line.startswith("|"):
            table = None
            continue
        row = _cells(line)
        if lines[number + 1 : number + 2] and re.match(r"\| -+", lines[number + 1]):
            table, heads = _table(row), row[1:]
        elif table and not re.match(r"-+$", row[0]):
            yield number, row, table(_plain(row[0]), heads, values)


def _table(heads: list[str]) -> Callable[[str, list[str], Values], Cells] | None:
    if heads[1:] == list(MAIN):
        return _main_cells
    if heads[1:] == BY_KIND:
        return _cells_by_kind
    if heads[1:3] == ["IoU with the ideal", "path"]:
        return _cells_of_networks
    if heads[1:] == list(REACHING):
        return _cells_of_reaching
    return None


def _main_cells(label: str, heads: list[str], values: Values) -> Cells:
    row = values[ROWS[label]]
    return [_figure(row, name, digits, worst=name != "reconstruction_psnr") for name, digits in MAIN.values()]


def _cells_by_kind(label: str, heads: list[str], values: Values) -> Cells:
    return [
        _figure(values[ROWS[label]], name, digits, kinds=(kind,), worst=True)
        for kind in KINDS.values()
        for name, digits in (("edit_right", 0), ("iou", 2))
    ]


def _cells_of_networks(label: str, heads: list[str], values: Values) -> Cells:
    row, cells = ROWS[label], []
    for head in heads:
        if head not in NETWORKS:
            cells.append(None)
            continue
        name, digits = NETWORKS[head]
        shown = {each: _figure(values[each], name, digits) for each in map(ROWS.get, _labels_of_networks())}
        best = min(shown.values(), key=lambda cell: FIGURES[name].error(float(cell) / FIGURES[name].scale))
        cell = f"**{shown[row]}**" if shown[row] == best else shown[row]
        if row != OURS:
            cell += f" ({_better(values, row, name, of=head == 'path' and row == 'factorised')})"
        cells.append(cell)
    return cells


def _labels_of_networks() -> list[str]:
    labels = list(ROWS)
    return labels[labels.index("ours (full)") :]


def _better(values: Values, row: str, name: str, *, of: bool) -> str:
    """On how many clips a variant is better than ours."""
    error = FIGURES[name].error
    ours, theirs = (by_clip(values[each][name]) for each in (OURS, row))
    better = sum(error(theirs[clip]) < error(ours[clip]) for clip in ours)
    return f"{better} of {len(ours)}" if of else f"{better}"


def _cells_of_reaching(label: str, heads: list[str], values: Values) -> Cells:
    return [_reaching(label, values, variant) for variant in REACHING.values()]


def _reaching(label: str, values: Values, variant: str) -> str:
    if label in REACHED:
        name, limit, kinds = REACHED[label]
        error = FIGURES[name].error
        found = [value for (_, kind), value in values[variant][name].items() if kind in kinds]
        return _share(error(value) <= error(limit) + 1e-9 for value in found)
    if label.startswith("right in no more than one frame fewer"):
        plain, found = (values[each]["edit_right"] for each in (OURS, variant))
        return _share(found[place] >= plain[place] - ONE_FRAME - 1e-9 for place in plain)
    if label.startswith("background below the VAE's own"):
        own, found = (values[each]["background_psnr"] for each in ("ideal-vae", variant))
        lost = [own[place] - found[place] for place in found if place[1] in KEEPING_THE_GROUND]
        return f"{np.median(lost):.1f}"
    raise KeyError(label)


def _share(reached: Iterator[bool]) -> str:
    each = list(reached)
    return f"{sum(each)} of {len(each)}"


def _figure(
    row: Mapping[str, Mapping], name: str, digits: int, *, kinds: tuple[str, ...] = (), worst: bool = False
) -> str:
    """The mean, over the clips, of their means over edits; and the worst edit."""
    figure = FIGURES[name]
    places = {place: value for place, value in row.get(name, {}).items() if not kinds or place[1] in kinds}
    if not places:
        return "-"
    mean, lowest = (f"{figure.scale * value:.{digits}f}" for value in (mean_of(places), worst_of(figure, places)))
    return f"{mean} ({lowest})" if worst else mean


def _plain(label: str) -> str:
    return re.sub(r"[*`]", "", label)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
