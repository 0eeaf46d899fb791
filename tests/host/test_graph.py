"""The sentence that a graph holds behind a socket."""

import pytest

from tests.host.inprocess import pack

ENCODE = {"inputs": {"text": "a man is skiing", "clip": ["checkpoint", 1]}}
TUNE = {"inputs": {"positive": ["caption", 0], "steps": 2}}


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ({"tune": TUNE, "caption": ENCODE}, "a man is skiing"),
        (
            {
                "tune": TUNE,
                "caption": {"inputs": {"positive": ["encode", 0], "negative": ["nothing", 0]}},
                "encode": ENCODE,
                "nothing": {"inputs": {"text": ""}},
            },
            "a man is skiing",
        ),
        (
            {
                "tune": TUNE,
                "caption": {"inputs": {"text": ["words", 0], "clip": ["checkpoint", 1]}},
                "words": {"inputs": {"value": "a dog"}},
            },
            "a dog",
        ),
        ({"tune": TUNE, "caption": {"inputs": {"conditioning": ["tune", 0]}}}, ""),
        ({"tune": TUNE}, ""),
        ({"tune": {"inputs": {}}}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_nearest_words_behind_a_socket_are_taken(graph, words):
    assert pack("nodes.host.graph").prompt_behind(graph, "tune") == words
