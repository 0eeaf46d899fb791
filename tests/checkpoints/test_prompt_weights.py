"""Weights of words in prompts, as far as they need no ComfyUI; tests/host/test_prompt_weights.py compares with it."""

import pytest
import torch

from tav_core import TavError, load_checkpoint
from tav_core.checkpoints.prompt_weights import notes_on, weighted_parts, without_weights
from tav_core.demo.miniature import miniature_path


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(miniature_path())


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
        ("(red:1.3)(cat:0.5)", [("red", 1.3), ("cat", 0.5)]),
        ("((red)) cat", [("red", 1.1 * 1.1), (" cat", 1.0)]),
        ("((red) cat:2)", [("red", 2.2), (" cat", 2.0)]),
        ("((red:3) cat:2)", [("red", 3.0), (" cat", 2.0)]),
        ("(at 10:30)", [("at 10", 30.0)]),
        ("(note: red)", [("note: red", 1.1)]),
        (r"a \(red\) cat", [("a (red) cat", 1.0)]),
        ("a red) cat", [("a red) cat", 1.0)]),
        ("a (red cat", [("a ", 1.0), ("(red cat", 1.0)]),
        ("", [("", 1.0)]),
    ],
)
def test_a_prompt_is_split_into_parts_of_one_weight(prompt, parts):
    assert [part for part, _ in weighted_parts(prompt)] == [part for part, _ in parts]
    assert [weight for _, weight in weighted_parts(prompt)] == pytest.approx([weight for _, weight in parts])


@pytest.mark.parametrize(
    "prompt", ["(red:nan)", "(red:inf) cat", "(" * 5000 + "red" + ")" * 5000, "\ud800", "(\ud800)"]
)
def test_what_is_no_weight_is_refused(checkpoint, prompt):
    with pytest.raises(TavError, match=r"^The prompt .{1,400}; (correct it|remove some|type it again)\.$"):
        checkpoint.encode_prompt(prompt)


def test_a_weight_of_1_is_none_and_of_0_gives_what_an_empty_prompt_has_there(checkpoint):
    plain, empty = (checkpoint.encode_prompt(words).embeds for words in ("a red circle", ""))
    assert torch.equal(checkpoint.encode_prompt("a (red:1.0) circle").embeds, plain)
    without = checkpoint.encode_prompt("a (red:0) circle").embeds
    places = torch.arange(77) == 2
    torch.testing.assert_close(without[:, places], empty[:, places])
    assert torch.equal(without[:, ~places], plain[:, ~places])


def test_weights_of_a_prompt_do_not_touch_others_of_its_batch(checkpoint):
    prompts = ["a red circle", "a (red:1.5) circle"]
    together = checkpoint.encode_prompt(prompts).embeds
    for prompt, embeds in zip(prompts, together, strict=True):
        torch.testing.assert_close(checkpoint.encode_prompt(prompt).embeds[0], embeds)


def test_the_tokens_and_words_of_a_prompt_are_those_without_its_weights(checkpoint):
    plain = checkpoint.tokens("a red circle is moving")
    assert checkpoint.tokens("a (red:1.3) circle (is moving)") == plain
    cut = checkpoint.tokens("a red cir(cle:2) is moving")
    assert [number for number in cut.words if number][-1] == 5  # still one word, of more tokens
    assert without_weights("a (red:1.3) circle (is moving)") == "a red circle is moving"
    assert checkpoint.truncated_words("(red:1.2) " * 80) == " ".join(["red"] * 5)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [("a cat, embedding:style", "textual inversions"), ("a cat BREAK a dog", "word 'break'"), ("a breakfast", None)],
)
def test_what_other_programs_read_otherwise_gets_a_warning(prompt, words):
    notes = notes_on(prompt)
    assert len(notes) == bool(words)
    assert not words or words in notes[0]
