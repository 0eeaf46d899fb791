"""The report of an evaluation: figures with their spread, as Markdown tables and as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..demo.settings import Settings
from .variants import VARIANTS, Variant

Values = Mapping[str, Mapping[str, Mapping[str, float]]]  # variant -> figure -> clip -> value


@dataclass(frozen=True)
class Figure:
    """A column of the tables. up: higher is better. scale: factor of the values shown."""

    title: str
    up: bool
    digits: int = 2
    scale: float = 1.0


TABLES = {
    "Does the edit land, and does the rest stay?": {
        "attribute_right": Figure("edit right, %", True, 0, 100),
        "attribute_right_object": Figure("object, %", True, 0, 100),
        "attribute_right_background": Figure("background, %", True, 0, 100),
        "attribute_right_attribute": Figure("attribute, %", True, 0, 100),
        "attribute_right_style": Figure("style, %", True, 0, 100),
        "rest_kept": Figure("rest kept, %", True, 0, 100),
        "background_psnr": Figure("background kept, dB", True, 1),
    },
    "Does it move as the clip does, and is it one video?": {
        "trajectory_correlation": Figure("trajectory correlation", True, 3),
        "centre_error": Figure("centre error, % of width", False, 1, 100),
        "constancy": Figure("constancy, %", True, 1, 100),
        "ground_constancy": Figure("of ground, %", True, 1, 100),
        "colour_constancy": Figure("of colour, %", True, 1, 100),
        "shape_constancy": Figure("of shape, %", True, 1, 100),
        "size_spread": Figure("size spread, %", False, 1, 100),
        "warp_error": Figure("warp error, 10⁻³", False, 2, 1000),
    },
    "Does the inversion hold the clip, and what does it cost?": {
        "reconstruction_psnr": Figure("reconstruction, dB", True, 1),
        "reconstruction_ssim": Figure("reconstruction, SSIM", True, 3),
        "seconds": Figure("seconds per clip", False, 0),
    },
}
"""The figures by name, table by table."""
FIGURES = {name: figure for figures in TABLES.values() for name, figure in figures.items()}


def by_variant(measured: Iterable[tuple[str, str, Mapping[str, float]]]) -> Values:
    """Gathers (variant, clip, figures), in the order of VARIANTS."""
    values: dict = {}
    for variant, clip, figures in measured:
        for name, value in figures.items():
            values.setdefault(variant, {}).setdefault(name, {})[clip] = value
    return {name: values[name] for name in VARIANTS if name in values}


def as_json(values: Values) -> dict:
    """Variant -> figure -> mean, sample standard deviation (std) over the clips, and the value of each clip."""
    return {
        variant: {
            name: {"mean": _mean(clips), "std": _std(clips), "clips": {clip: round(v, 6) for clip, v in clips.items()}}
            for name in FIGURES
            if (clips := figures.get(name))
        }
        for variant, figures in values.items()
    }


def as_tables(values: Values) -> str:
    """Markdown tables with a row per variant: mean ± standard deviation over the clips."""
    parts = []
    for heading, names in TABLES.items():
        titles = [f"{FIGURES[name].title} {'↑' if FIGURES[name].up else '↓'}" for name in names]
        rows = [
            [f"`{variant}`", *(_cell(FIGURES[name], figures.get(name)) for name in names)]
            for variant, figures in values.items()
        ]
        parts += [f"## {heading}", table(["variant", *titles], rows)]
    return "\n\n".join(parts)


def explanation(variants: Mapping[str, Variant], num_clips: int, settings: Settings, command: str, made_by: str) -> str:
    """Markdown: what was measured, how, and what each figure means."""
    listed = "\n".join(f"- `{name}`: {variant.title}" for name, variant in variants.items())
    return f"""# The claims, measured

{num_clips} clips of {settings.frames} frames of the drawn world (`tav_core/demo/`), each edited with four prompts:
another object, another background, another attribute, another style. Made with

    {command}

on {made_by}. Settings: {settings.tuning_steps} steps of tuning at {settings.learning_rate:g},
{settings.inversion_steps} of inversion, {settings.steps} of sampling, guidance {settings.guidance_scale:g},
GroupNorm over each {settings.group_norm}.
Each value is the mean over the clips ± their standard deviation; a clip's value is the mean over its edits.

- *edit right*: share of frames that show everything the prompt changes; *rest kept*: that keep everything else.
- *background kept*: PSNR against the clip, outside both objects, for prompts that keep the ground.
- *trajectory correlation*: of the object's centres with the clip's, each about its mean; *centre error*: their
  distance.
- *constancy*: share of frames with the ground, colour and shape that most frames of the video have; mean of the three.
- *size spread*: standard deviation of the object's size over the frames; no prompt mentions the size, so it shows how
  well the frames agree with each other.
- *warp error*: mean squared difference of neighbouring frames along their optical flow (DIS).
- *reconstruction*: the clip inverted and sampled back, including the error of the VAE.

The variants:

{listed}"""


def as_claims(values: Values) -> str:
    """A Markdown table of each figure in which a variant should be worse than another, compared clip by clip.

    Empty if there is nothing to compare.
    """
    rows = []
    for variant in values:
        against = VARIANTS[variant].against
        for name in VARIANTS[variant].worse_in if against in values else ():
            full, without, figure = values[against][name], values[variant][name], FIGURES[name]
            worse = {clip: (full[clip] - without[clip]) * (1 if figure.up else -1) for clip in full if clip in without}
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


def _cell(figure: Figure, values: Mapping[str, float] | None) -> str:
    if not values:
        return "-"
    return f"{figure.scale * _mean(values):.{figure.digits}f} ± {figure.scale * _std(values):.{figure.digits}f}"


def _is_clear(differences: Sequence[float]) -> bool:
    """Whether the mean difference is more than two standard errors above zero."""
    if len(differences) < 2:
        return False
    return bool(np.mean(differences) > 2 * np.std(differences, ddof=1) / np.sqrt(len(differences)))


def _mean(values: Mapping[str, float]) -> float:
    return round(float(np.mean(list(values.values()))), 6)


def _std(values: Mapping[str, float]) -> float:
    return round(float(np.std(list(values.values()), ddof=1)), 6) if len(values) > 1 else 0.0
