"""The temporal layers of other video networks from the shell: tuned, recorded, edited with, and refused."""

import json

import pytest

from tests.cli.test_cli import editing, files, tav, tuning  # noqa: F401  `files` is a fixture

VIDEO_LDM = {"attention": "frame", "group_norm": "frame", "convolution": True, "merge": "alpha", "no_queries": True}
RECORDED = {"attention": "frame", "group_norm": "frame", "temporal": True, "position_bias": True, "convolution": True}
RECORDED |= {"merge": "alpha", "queries": False}


def test_options_go_into_the_weights_and_an_edit_reads_them_there(files, tmp_path):  # noqa: F811
    output, more = tmp_path / "ball.safetensors", {"position_bias": True, "image_share": 0.5}
    said = tav(*tuning(files, output, **VIDEO_LDM, **more))
    assert said.code == 0, said.err
    facts = json.loads(tav("info", output, "--json").out)
    assert facts.items() >= RECORDED.items()
    assert facts["config"]["image_share"] == 0.5
    assert "already" in tav(*tuning(files, output, **VIDEO_LDM, **more)).err
    said = tav(*tuning(files, output, **VIDEO_LDM, position_bias=True))
    assert said.code == 2
    assert "weights of another run (image_share 0.5, not 0.0)" in " ".join(said.err.split())
    said = tav(*editing(files, tmp_path / "edits", "a box", weights=output))
    assert said.code == 0, said.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_temporal": True, "position_bias": True}, "position_bias belongs to temporal attention, which is off"),
        ({"no_temporal": True, "no_queries": True}, "nothing is left to tune"),
        ({"no_temporal": True, "merge": "alpha"}, "no temporal layer to merge"),
        ({"image_share": 1}, "image_share must be a number from 0 to below 1"),
        ({"frames": 1, "position_bias": True}, "it needs at least 2 frames, got 1"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_sentence(files, tmp_path, options, message):  # noqa: F811
    said = tav(*tuning(files, tmp_path / "ball.safetensors", **options))
    assert said.code == 2
    assert message in " ".join(said.err.split())
    assert not list(tmp_path.glob("*.safetensors"))
