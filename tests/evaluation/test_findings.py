"""docs/findings.md says what docs/eval.json holds (benchmarks/findings.py)."""

import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def findings(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import findings

    return findings


def test_each_figure_of_the_findings_is_the_evaluation_s(findings):
    assert findings.differences(findings.FINDINGS.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("cell", "wrong"),
    [
        (r"(?m)(^\| \*\*Tune-A-Video\*\* \| )\d+", r"\g<1>5"),
        (
            r"(?m)(^\| structure, layout, mask from words \| )\d+( \(\d+\) \| [\d.]+ \([\d.]+\) \| \d+ \()",
            r"\g<1>5\g<2>",
        ),
        (r"(?m)(^\| background below the VAE's own.* )[\d.]+ \|$", r"\g<1>9.9 |"),
        (r"(?m)(^\| with a convolution over time \| )[\d.]+", r"\g<1>0.001"),
        (r"(?m)(^\| jitter of 1.5 px \| )\d+", r"\g<1>0"),
        (r"(?m)(^\| right in no more than one frame fewer than plain .* )\d+( of 48 \| 48 of 48 \|)", r"\g<1>0\g<2>"),
        (r"(?ms)(^## 16 frames.*^\| structure, layout, true mask \| )\d+", r"\g<1>5"),
    ],
)
def test_another_figure_is_seen_and_put_right(findings, cell, wrong):
    text = findings.FINDINGS.read_text(encoding="utf-8")
    changed, times = re.subn(cell, wrong, text, count=1)
    assert times == 1
    assert len(findings.differences(changed)) == 1
    assert findings.renewed(changed) == text
