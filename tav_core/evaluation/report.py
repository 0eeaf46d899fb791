"""The report of an evaluation: figures with their spread, as Markdown tables and as JSON."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..demo.settings import Settings
from ..errors import TavError, shown
from .judging import Figures
from .references import CEILING, FLOOR, TITLES
from .variants import VARIANTS, Variant

Place = tuple[str, str]  # a clip's name and an edit's kind; "" for what concerns the clip as a whole
Values = Mapping[str, Mapping[str, Mapping[Place, float]]]  # variant or reference -> figure -> place -> value
SAME = 1e-4  # difference up to which two reports' values of the ideal are the same
NEAR = 0.05  # of the way from the ceiling to the worst reference: nearer than this is at the ceiling


@dataclass(frozen=True)
class Figure:
    """A column of the tables. right: its best value. scale: factor of the values shown."""

    title: str
    right: float
    digits: int = 2
    scale: float = 1.0

    @property
    def arrow(self) -> str:
        return "→ 1" if self.title == "size ratio" else "↓" if self.right == 0 else "↑"

    def error(self, value: float) -> float:
        """How far a value is from the best one; lower is better."""
        return -value if math.isinf(self.right) else abs(value - self.right)


TABLES = {
    "Is the object where it should be, as large and as shaped as it should be?": {
        "iou": Figure("IoU with the ideal", 1, 3),
        "worst_iou": Figure("IoU, worst frame", 1, 3),
        "pose_iou": Figure("IoU of the limbs", 1, 3),
        "size_ratio": Figure("size ratio", 1, 3),
        "size_error": Figure("size error, %", 0, 1, 100),
        "size_jump": Figure("largest size jump, %", 0, 1, 100),
        "centre_error": Figure("centre error, px", 0, 1),
        "largest_centre_error": Figure("largest centre error, px", 0, 1),
        "jitter": Figure("jitter, px", 0, 2),
        "flow_error": Figure("flow error, px", 0, 2),
    },
    "Does the edit land, and does the rest stay?": {
        "edit_right": Figure("edit right, %", 1, 0, 100),
        "rest_kept": Figure("rest kept, %", 1, 0, 100),
        "object_psnr": Figure("object, dB", math.inf, 1),
        "rim_psnr": Figure("rim, dB", math.inf, 1),
        "other_iou": Figure("IoU of the other object", 1, 3),
        "other_psnr": Figure("other object, dB", math.inf, 1),
        "background_psnr": Figure("background, dB", math.inf, 1),
        "ground_colour_error": Figure("colours of a new ground, ΔE", 0, 1),
        "ground_flow_error": Figure("flow error of the ground, px", 0, 2),
    },
    "The literature's figures, the inversion, and the cost": {
        "trajectory_correlation": Figure("trajectory correlation", 1, 3),
        "size_spread": Figure("size spread, %", 0, 1, 100),
        "warp_error": Figure("warp error, 10⁻³", 0, 2, 1000),
        "reconstruction_psnr": Figure("reconstruction, dB", math.inf, 1),
        "reconstruction_ssim": Figure("reconstruction, SSIM", 1, 3),
        "seconds": Figure("seconds per clip", 0, 0),
    },
}
"""The figures by name, table by table."""
BY_KIND = ("edit_right", "iou")
FIGURES = {name: figure for figures in TABLES.values() for name, figure in figures.items()}


def by_variant(measured: Iterable[tuple[str, str, Figures]]) -> Values:
    """Gathers (variant or reference, clip, figures): the ceiling first, then VARIANTS in order, then the floor."""
    values: dict = {}
    for variant, clip, figures in measured:
        for kind, named in figures.items():
            for name, value in named.items():
                values.setdefault(variant, {}).setdefault(name, {})[clip, kind] = value
    return _in_order(values)


def beside(values: Values, earlier: Values) -> Values:
    """The rows of two reports together; of a row that both have, the first one's. Raises TavError where they are not of
    the same clips, in as many frames."""
    check_beside({clip for clip, _ in values["ideal"]["iou"]}, earlier)
    ours, theirs = (each["ideal"]["iou"] for each in (values, earlier))
    if any(abs(value - theirs.get(place, math.inf)) > SAME for place, value in ours.items()):
        raise TavError("The earlier report has another ideal for these clips; measure with as many frames.")
    return _in_order({**earlier, **values})


def check_beside(clips: Iterable[str], earlier: Values) -> None:
    """Raises TavError unless all rows of an earlier report are of these clips."""
    clips = sorted(clips)
    rows = [sorted({clip for places in figures.values() for clip, _ in places}) for figures in earlier.values()]
    if theirs := next((row for row in rows if row != clips), None):
        raise TavError(
            f"The earlier report is of {len(theirs)} clips from {shown(theirs[0])} on, this one of {len(clips)} from "
            f"{clips[0]} on; measure the same ones."
        )


def _in_order(values: Values) -> Values:
    return {name: values[name] for name in (*CEILING, *VARIANTS, *FLOOR) if name in values}


def read_json(path: Path) -> Values:
    """Reads what `as_json` gave; raises TavError for any other file."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found = {
            row: {
                name: {(*place.split("/"), "")[:2]: float(value) for place, value in figure["values"].items()}
                for name, figure in figures.items()
                if name in FIGURES
            }
            for row, figures in rows.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise TavError(f"{path} is no eval.json of `tav eval` ({type(error).__name__}); give one.") from error
    values = [value for figures in found.values() for figure in figures.values() for value in figure.values()]
    if not all(map(math.isfinite, values)):
        raise TavError(f"{path} holds values that are no numbers; measure again.")
    if not found.get("ideal", {}).get("iou") or not all(all(figures.values()) for figures in found.values()):
        raise TavError(f"{path} is no eval.json of `tav eval`, as it lacks values; give one.")
    return found


def as_json(values: Values) -> dict:
    """Variant -> figure -> mean and sample standard deviation (std) over clips, the worst value, and every value."""
    return {
        variant: {
            name: {
                "mean": mean_of(places),
                "std": _std(places),
                "worst": round(worst_of(FIGURES[name], places), 6),
                "values": {"/".join(filter(None, place)): round(value, 6) for place, value in places.items()},
            }
            for name in FIGURES
            if (places := figures.get(name))
        }
        for variant, figures in values.items()
    }


def as_tables(values: Values) -> str:
    """Markdown tables with a row per variant: mean ± standard deviation over clips, and the worst edit.

    A figure that is at its ceiling for every variant is marked (=): it cannot rank them.
    """
    parts = []
    for heading, names in TABLES.items():
        marks = {name: " (=)" if is_at_ceiling(name, values) else "" for name in names}
        titles = [f"{FIGURES[name].title} {FIGURES[name].arrow}{marks[name]}" for name in names]
        rows = [
            [f"`{variant}`", *(_cell(FIGURES[name], figures.get(name), worst=True) for name in names)]
            for variant, figures in values.items()
        ]
        parts += [f"## {heading}", table(["variant", *titles], rows)]
    return "\n\n".join([*parts, "## Which kinds of edit land, and which follow the clip?", _by_kind(values)])


def _by_kind(values: Values) -> str:
    """A Markdown table of the figures BY_KIND, for each kind of edit by itself."""
    kinds = dict.fromkeys(kind for figures in values.values() for _, kind in figures.get("iou", ()))
    columns = [(kind, name) for kind in kinds for name in BY_KIND]
    rows = [
        [f"`{variant}`", *(_cell(FIGURES[name], _of_kind(figures, name, kind), worst=True) for kind, name in columns)]
        for variant, figures in values.items()
    ]
    return table(["variant", *(f"{kind}: {FIGURES[name].title} {FIGURES[name].arrow}" for kind, name in columns)], rows)


def _of_kind(figures: Mapping[str, Mapping[Place, float]], name: str, kind: str) -> dict[Place, float]:
    return {place: value for place, value in figures.get(name, {}).items() if place[1] == kind}


def is_at_ceiling(name: str, values: Values) -> bool:
    """Whether every variant reaches what the ideal reaches through the VAE, so that the figure ranks nothing."""
    figure, floor = FIGURES[name], [values[row][name] for row in FLOOR if name in values.get(row, ())]
    measured = [figures[name] for row, figures in values.items() if row in VARIANTS and name in figures]
    if name not in values.get("ideal-vae", ()) or not (floor and measured):
        return False
    ceiling = figure.error(mean_of(values["ideal-vae"][name]))
    span = max(figure.error(mean_of(places)) for places in floor) - ceiling
    return all(figure.error(mean_of(places)) - ceiling <= NEAR * max(span, 0) for places in measured)


def explanation(variants: Mapping[str, Variant], num_clips: int, settings: Settings, command: str, made_by: str) -> str:
    """Markdown: what was measured, how, and what each figure means."""
    titles = {name: variant.title for name, variant in variants.items()} | TITLES
    listed = "\n".join(f"- `{name}`: {title}" for name, title in titles.items())
    return f"""# The claims, measured

{num_clips} clips of {settings.frames} frames of the drawn world (`tav_core/world/`), each edited with four prompts:
another object, another background, another attribute, another style. Made with

    {command}

on {made_by}. Settings: {settings.tuning_steps} steps of tuning at {settings.learning_rate:g},
{settings.inversion_steps} of inversion, {settings.steps} of sampling, guidance {settings.guidance_scale:g},
GroupNorm over each {settings.group_norm}.
Each value is the mean over the clips ± their standard deviation, where a clip's value is the mean over its edits, and
in brackets that of the worst edit. The first rows are the ceiling, the last ones must score badly. A figure marked (=)
is at its ceiling for every variant.

Against the ideal, which is what the world's own drawing shows for the edit:

- *IoU*: of the object's mask, intersection over union; *of the limbs*: of a figure, where its silhouette changes, with
  the masks centred.
- *size ratio*: of the square roots of the areas; *size jump*: by how much it changes from one frame to the next.
- *centre error*: of the mask's centroid; *jitter*: by how much the error changes from frame to frame; 64 where the
  object is missing. All in pixels of 128.
- *flow error*: end-point error of the optical flow on objects, and on the ground, where DIS can follow the ideal's.
- *edit right*: share of what the prompt changes that can be read from the frames; *rest kept*: of everything else.
- *object*: the pixels of the edited object; *rim*: those within 4 px of it; *other object*: what is not edited;
  *background*: beyond 4 px of all objects, for prompts that keep the ground; all PSNR. *Colours of a new ground*: the
  distance in CIE L*a*b* of the blurred background, for prompts that change it.

For comparison with the literature, *trajectory correlation* of the centres, *size spread* over the frames, *warp error*
along the video's own flow; *reconstruction*: the clip inverted and sampled back.

The variants and references:

{listed}"""


def as_claims(values: Values) -> str:
    """A Markdown table of each figure in which a variant should be worse than another, compared clip by clip.

    Empty if there is nothing to compare.
    """
    rows = []
    for variant in filter(VARIANTS.__contains__, values):
        against = VARIANTS[variant].against
        for name in VARIANTS[variant].worse_in if against in values else ():
            if not all(name in values[row] for row in (against, variant)):
                continue
            (full, without), figure = (by_clip(values[row][name]) for row in (against, variant)), FIGURES[name]
            worse = {clip: figure.error(without[clip]) - figure.error(full[clip]) for clip in full if clip in without}
            rows.append(
                [
                    f"`{variant}`",
                    figure.title,
                    VARIANTS[variant].says,
                    f"`{against}`",
                    _cell(figure, full),
                    _cell(figure, without),
                    _cell(figure, worse),
                    f"{sum(difference > 0 for difference in worse.values())} of {len(worse)}",
                    "yes" if _is_clear(list(worse.values())) else "**no**",
                ]
            )
    heads = [
        "variant",
        "should be worse in",
        "claimed by",
        "than",
        "its value",
        "variant's value",
        "worse by",
        "clips where worse",
        "clearly",
    ]
    return table(heads, rows) if rows else ""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    padded = [[f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _cell(figure: Figure, values: Mapping, *, worst: bool = False) -> str:
    if not values:
        return "-"
    mean, std, lowest = (figure.scale * value for value in (mean_of(values), _std(values), worst_of(figure, values)))
    shown = f"{mean:.{figure.digits}f} ± {std:.{figure.digits}f}"
    return f"{shown} ({lowest:.{figure.digits}f})" if worst else shown


def worst_of(figure: Figure, values: Mapping) -> float:
    """The value of the edit that is farthest from the figure's best one."""
    return max(values.values(), key=figure.error)


def by_clip(values: Mapping) -> dict[str, float]:
    """The mean over each clip's edits."""
    clips: dict[str, list[float]] = {}
    for place, value in values.items():
        clips.setdefault(place[0] if isinstance(place, tuple) else place, []).append(value)
    return {clip: float(np.mean(each)) for clip, each in clips.items()}


def _is_clear(differences: Sequence[float]) -> bool:
    """Whether the mean difference is more than two standard errors above zero."""
    if len(differences) < 2:
        return False
    return bool(np.mean(differences) > 2 * np.std(differences, ddof=1) / np.sqrt(len(differences)))


def mean_of(values: Mapping) -> float:
    """The mean over the clips, of their means over edits."""
    return round(float(np.mean(list(by_clip(values).values()))), 6)


def _std(values: Mapping) -> float:
    clips = list(by_clip(values).values())
    return round(float(np.std(clips, ddof=1)), 6) if len(clips) > 1 else 0.0
