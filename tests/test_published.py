"""Published figures: one place in the code, the table made of it, and nothing without a source."""

from pathlib import Path

from tav_core.evaluation.paper_table import PUBLISHED as CLIP_SCORES
from tav_core.evaluation.published import METRICS, PUBLISHED, as_markdown, published_of

DOCS = Path(__file__).parents[1] / "docs"


def test_the_document_is_what_the_code_holds():
    text = (DOCS / "published.md").read_text(encoding="utf-8")
    assert text == as_markdown(), "run: python -m tav_core.evaluation.published > docs/published.md"


def test_every_figure_has_a_source_and_a_known_metric():
    for row in PUBLISHED:
        assert row.figures.keys() <= METRICS.keys()
        assert bool(row.figures) == row.source.place.startswith("https://")


def test_the_rows_beside_measured_clip_scores_are_those_with_both():
    assert published_of("frame_consistency", "textual_faithfulness") == CLIP_SCORES
    assert CLIP_SCORES.keys() == {"Tune-A-Video", "Plug-and-Play", "CogVideo"}
    assert published_of("msrvtt_clipsim", "ucf101_fvd")["Make-A-Video"] == (0.3049, 367.23)
