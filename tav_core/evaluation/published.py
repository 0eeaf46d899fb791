"""Published figures of other systems, each with its source; none is measured here.

docs/published.md is made of them: `python -m tav_core.evaluation.published > docs/published.md`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

METRICS = {
    "frame_consistency": "CLIP frame consistency ↑",
    "textual_faithfulness": "CLIP textual faithfulness ↑",
    "ucf101_is": "UCF-101 IS ↑",
    "ucf101_fvd": "UCF-101 FVD ↓",
    "msrvtt_clipsim": "MSR-VTT CLIPSIM ↑",
}


@dataclass(frozen=True)
class Source:
    """Where figures were read. title: as the table shows it. place: an address."""

    title: str
    place: str


@dataclass(frozen=True)
class Published:
    """Figures of one system in one setting, by their names in METRICS.

    paper: the system's, on arXiv. source: where the figures were read, if that is not the paper itself.
    """

    system: str
    setting: str
    paper: str
    source: Source
    figures: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


TABLE_1 = Source("Tune-A-Video, Table 1", "https://arxiv.org/abs/2212.11565")
LEADERBOARD = Source(
    "Awesome Text-to-Video Generation, zero-shot leaderboard",
    "https://github.com/feifeiobama/Awesome-Text-to-Video-Generation/tree/3aba2807d681a225828d7b6a8016f3f2f5048caf",
)
MAKE_A_VIDEO = Source("Papers with Code, its results", "https://paperswithcode2.com/paper/319325")
COG_VIDEO = Source(
    "Papers with Code, its results", "https://paperswithcode.com/paper/cogvideo-large-scale-pretraining-for-text-to"
)
DIGAN = Source(
    "Papers with Code, its results", "https://paperswithcode.com/paper/generating-videos-with-dynamics-aware-1"
)
MOCOGAN_HD = Source(
    "Papers with Code, its results", "https://paperswithcode.com/paper/a-good-image-generator-is-what-you-need-for-1"
)
TATS = Source("AR-Diffusion, Table 1, as transcribed", "https://www.aipaper.cc/pdf/68ef66dec4954f31b6b55d70")
WIZWAND = Source("Wizwand, its results", "https://www.wizwand.com/paper/68fa6cd51e209131cea36149")
TGAN_V2 = Source(
    "the abstract of its first version",
    "https://deepai.org/publication/tganv2-efficient-training-of-large-models-for-video-generation-with-multiple-subsampling-layers",
)
NOT_FOUND = Source("no figure that could be verified", "")

PUBLISHED = (
    Published(
        "Tune-A-Video",
        "the paper's clips and prompts",
        "2212.11565",
        TABLE_1,
        {"frame_consistency": 92.40, "textual_faithfulness": 27.58},
    ),
    Published(
        "Plug-and-Play",
        "the paper's clips and prompts",
        "2211.12572",
        TABLE_1,
        {"frame_consistency": 88.89, "textual_faithfulness": 27.56},
    ),
    Published(
        "CogVideo",
        "the paper's prompts",
        "2205.15868",
        TABLE_1,
        {"frame_consistency": 90.64, "textual_faithfulness": 23.91},
    ),
    Published(
        "CogVideo",
        "zero-shot",
        "2205.15868",
        LEADERBOARD,
        {"ucf101_is": 25.27, "ucf101_fvd": 701.59, "msrvtt_clipsim": 0.2631},
    ),
    Published(
        "CogVideo",
        "class-conditional, 128 x 128",
        "2205.15868",
        COG_VIDEO,
        {"ucf101_is": 51.11, "ucf101_fvd": 305},
    ),
    Published(
        "Make-A-Video",
        "zero-shot, 256 x 256",
        "2209.14792",
        LEADERBOARD,
        {"ucf101_is": 33.00, "ucf101_fvd": 367.23, "msrvtt_clipsim": 0.3049},
    ),
    Published(
        "Make-A-Video",
        "fine-tuned, 256 x 256",
        "2209.14792",
        MAKE_A_VIDEO,
        {"ucf101_is": 82.55, "ucf101_fvd": 81.25},
    ),
    Published(
        "Video LDM",
        "zero-shot",
        "2304.08818",
        LEADERBOARD,
        {"ucf101_is": 33.45, "ucf101_fvd": 550.61, "msrvtt_clipsim": 0.2929},
    ),
    Published("MagicVideo", "zero-shot", "2211.11018", LEADERBOARD, {"ucf101_fvd": 655.00}),
    Published("Video diffusion models", "16 frames", "2204.03458", WIZWAND, {"ucf101_is": 57}),
    Published("TATS", "16 frames", "2204.03638", TATS, {"ucf101_fvd": 420}),
    Published(
        "DIGAN",
        "unconditional, 128 x 128",
        "2202.10571",
        DIGAN,
        {"ucf101_is": 32.70, "ucf101_fvd": 577},
    ),
    Published(
        "DIGAN",
        "class-conditional, 128 x 128",
        "2202.10571",
        DIGAN,
        {"ucf101_is": 59.68, "ucf101_fvd": 465},
    ),
    Published(
        "MoCoGAN-HD",
        "unconditional, 256 x 256",
        "2104.15069",
        MOCOGAN_HD,
        {"ucf101_is": 33.95, "ucf101_fvd": 700},
    ),
    Published("TGANv2", "192 x 192", "1811.09245", TGAN_V2, {"ucf101_is": 24.34}),
    Published("Imagen Video", "", "2210.02303", NOT_FOUND),
    Published("GODIVA", "", "2104.14806", NOT_FOUND),
    Published("NÜWA", "", "2111.12417", NOT_FOUND),
)


def published_of(*metrics: str) -> dict[str, tuple[float, ...]]:
    """The systems of which all these metrics are published together, with their values."""
    return {
        row.system: tuple(row.figures[metric] for metric in metrics)
        for row in PUBLISHED
        if all(metric in row.figures for metric in metrics)
    }


def as_markdown() -> str:
    """docs/published.md."""
    head = ["system", "setting", *METRICS.values(), "read in"]
    rows = [" | ".join(_cells(row)) for row in PUBLISHED]
    table = "\n".join(f"| {line} |" for line in (" | ".join(head), " | ".join(_rules()), *rows))
    return f"{INTRODUCTION}\n{table}\n"


INTRODUCTION = """# Published figures

What others published of their systems. None of it was measured here: the clips, prompts, CLIP models, resolutions,
frame counts and code differ from row to row, so compare within a source at most. `tav eval RESULTS --clip-model
MODEL` measures the two CLIP scores of your edits, and prints the published rows of the same two below them, marked as
such. It does not measure the others. A system's name links to its paper; where the figures come from a list and not
from the paper itself, the list is what was read, and its settings are named as it names them. A dash means that no
figure was found that could be verified, which is so for Imagen Video, GODIVA and NÜWA altogether.

This file is generated from `tav_core/evaluation/published.py`.
"""


def _rules() -> list[str]:
    return ["---", "---", *("---:" for _ in METRICS), "---"]


def _cells(row: Published) -> list[str]:
    figures = [_shown(metric, row.figures[metric]) if metric in row.figures else "-" for metric in METRICS]
    source = f"[{row.source.title}]({row.source.place})" if row.source.place else row.source.title
    return [f"[{row.system}](https://arxiv.org/abs/{row.paper})", row.setting or "-", *figures, source]


def _shown(metric: str, value: float) -> str:
    return f"{value:.4f}" if metric == "msrvtt_clipsim" else f"{value:g}" if isinstance(value, int) else f"{value:.2f}"


if __name__ == "__main__":
    print(as_markdown(), end="")
