"""Prompt-to-Prompt's published numbers (tests/golden/published), and what our alignment adds to them."""

import json
from dataclasses import replace

import pytest
import torch

from tav_core import TavError
from tav_core.checkpoints.tokenizer import clip_tokenizer, tokens_of
from tav_core.layout import CHUNK, Tokens, align, attend_with_layout, attention_maps
from tests import golden

PUBLISHED = json.loads((golden.FOLDER / "published" / "prompt_to_prompt_mappers.json").read_text())
ATTENTION = golden.load("published/prompt_to_prompt_attention")
CASES = {f"{case['source']} -> {case['target']}": case for case in PUBLISHED["cases"]}


def tokens(prompt: str) -> Tokens:
    return tokens_of(clip_tokenizer(), prompt)


def published_refinement(case) -> torch.Tensor:
    mapper = torch.zeros(CHUNK, CHUNK)
    indices, alphas = (case["refinement"][name] for name in ("indices", "alphas"))
    for place in range(CHUNK):
        if place >= len(indices):
            mapper[place, place] = 1
        elif alphas[place]:
            mapper[indices[place], place] = 1
    return mapper


def published_replacement(case) -> torch.Tensor:
    mapper = torch.zeros(CHUNK, CHUNK)
    for source, target, value in case["replacement"]:
        mapper[source, target] = value
    return mapper


def is_longer(case) -> bool:
    """Whether the source has more tokens; then published refinement lets padding take the maps of its last words."""
    return sum(map(len, case["words"][0])) > sum(map(len, case["words"][1]))


def keeps_its_places(case) -> bool:
    """Whether all words have as many tokens in both prompts; otherwise published replacement shifts later words."""
    return [len(word) for word in case["words"][0]] == [len(word) for word in case["words"][1]]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tokens_and_their_words_are_the_published_ones(case):
    for ids, prompt, words in zip(("source_ids", "target_ids"), ("source", "target"), case["words"], strict=True):
        found = tokens(case[prompt])
        assert list(found.ids) == case[ids]
        assert [found.places(number + 1) for number in range(len(words))] == words


@pytest.mark.parametrize("case", [c for c in CASES.values() if not is_longer(c)], ids=lambda c: c["target"])
def test_words_of_both_prompts_are_matched_as_published(case):
    layout = align(tokens(case["source"]), tokens(case["target"]), replaces=False)
    assert torch.equal(layout.mapper, published_refinement(case))
    assert torch.equal(layout.shared, layout.mapper.sum(dim=0))


@pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c["replacement"] and keeps_its_places(c)], ids=lambda c: c["target"]
)
def test_words_of_an_equal_number_take_each_others_places_as_published(case):
    layout = align(tokens(case["source"]), tokens(case["target"]), replaces=True)
    assert torch.equal(layout.mapper, published_replacement(case))
    assert layout.shared.all()


def test_words_after_one_of_another_length_keep_their_places():
    """Published replacement reads the source one token too far from there on."""
    source, edit = tokens("a bowl of soup on the table"), tokens("a bowl of lasagne on the table")
    layout = align(source, edit)
    assert layout.replaces
    for word in (1, 2, 3, 5, 6, 7):
        ((place,), (other,)) = source.places(word), edit.places(word)
        assert layout.mapper[:, other].nonzero().tolist() == [[place]]
    assert layout.mapper[source.places(4)[0], edit.places(4)].tolist() == [0.5, 0.5]
    assert torch.equal(layout.mapper.sum(dim=0)[:9], torch.tensor([1, 1, 1, 1, 0.5, 0.5, 1, 1, 1]))


def test_padding_never_takes_a_place_of_words():
    source, edit = tokens("pea soup with croutons"), tokens("soup")
    layout = align(source, edit)
    words = [place for place, word in enumerate(source.words) if word]
    padding = [place for place in range(CHUNK) if edit.is_padding(place)]
    assert len(padding) == CHUNK - 3
    assert not layout.mapper[words][:, padding].any()
    assert (layout.mapper[:, padding].sum(dim=0) == 1).all()


@pytest.mark.parametrize(
    ("source", "edit", "replaces"),
    [
        ("a man is skiing", "a panda is skiing", True),
        ("a man is skiing", "a man is skiing on the beach", False),
        ("a man is skiing", "the wide ocean glitters", False),
    ],
)
def test_all_words_change_places_only_where_prompts_have_the_same_structure(source, edit, replaces):
    assert align(tokens(source), tokens(edit)).replaces == replaces


def test_prompts_of_several_chunks_are_aligned_across_them():
    source = in_chunks([[1, 2, 3], [4, 5]])
    edit = in_chunks([[1, 9, 2], [3, 4, 5]])
    layout = align(source, edit)
    found = {edit.ids[j]: source.ids[i] for i, j in layout.mapper.nonzero().tolist() if edit.words[j]}
    assert found == {1: 1, 2: 2, 4: 4, 5: 5}  # 3 stands on the other side of an end and a start
    assert not align(in_chunks([[1]]), edit).shared[CHUNK + 5 :].any()  # the source has no second chunk to pad


def in_chunks(chunks: list[list[int]]) -> Tokens:
    ids, words = [], []
    for chunk in chunks:
        first = max(words, default=0)
        ids += [1000, *chunk, *(1001,) * (CHUNK - 1 - len(chunk))]
        words += [0, *range(first + 1, first + 1 + len(chunk)), *(0,) * (CHUNK - 1 - len(chunk))]
    return Tokens(tuple(ids), tuple(words))


def is_sound(edit: dict) -> bool:
    """Whether neither published fault shows: words that shift, and padding that reads words."""
    source, target = (list(map(len, tokens(prompt).spelled.values())) for prompt in edit["prompts"])
    return source == target if "replace" in edit["method"] else sum(source) <= sum(target)


def whole_steps(name: str) -> list[int]:
    """The recorded steps in which every word takes the source's maps, which is what a dial gives."""
    steps = [int(key) for key in ATTENTION.part(f"out.{name}.") if key.isdecimal()]
    return [step for step in steps if ATTENTION[f"in.{name}.alpha"][step].all()]


SOUND = [name for name, edit in ATTENTION.settings["edits"].items() if is_sound(edit)]


@pytest.mark.parametrize(("name", "step"), [(name, step) for name in SOUND for step in whole_steps(name)])
def test_attention_is_edited_as_published(name, step):
    edit = ATTENTION.settings["edits"][name]
    source, target = map(tokens, edit["prompts"])
    layout = align(source, source if edit["method"] == "reweight" else target, replaces="replace" in edit["method"])
    gains = ATTENTION[f"in.{name}.equalizer"] if "reweight" in edit["method"] else layout.gains
    maps = ATTENTION["in.cross"]
    got = replace(layout, gains=gains).blend(maps[:2], maps[2:])
    torch.testing.assert_close(got, ATTENTION[f"out.{name}.{step}"][2:], atol=1e-6, rtol=0)


def test_several_published_edits_are_compared():
    methods = {ATTENTION.settings["edits"][name]["method"] for name in SOUND if whole_steps(name)}
    assert methods >= {"replace", "refine", "reweight", "reweight refine"}


def test_words_are_found_whole_and_next_to_signs():
    prompt = tokens("a superball, a ball, and a red ball")
    assert tokens("superball").ids[2] == tokens("ball").ids[1]
    assert len(prompt.find(tokens("ball"))) == 2
    assert not {*prompt.find(tokens("ball"))} & {*prompt.places(2)}
    assert prompt.find(tokens("red ball")) == prompt.find(tokens("red")) + prompt.find(tokens("ball"))[1:]
    assert prompt.find(tokens("cat")) == []


def test_maps_in_half_precision_do_not_overflow():
    big = torch.full((1, 4, 128), 40.0, dtype=torch.float16)
    assert attention_maps(big, big, 1).isfinite().all()


def test_gains_weigh_a_word_of_the_edit():
    source = edit = tokens("a pea soup")
    layout = align(source, edit, {tokens("pea"): 3.0, tokens("ham"): 2.0})
    assert layout.gains[edit.places(2)].tolist() == [3.0]
    assert layout.gains.sum() == len(edit.ids) + 2
    assert layout.gains.sum() == CHUNK + 2


def test_repeated_prompts_share_a_words_attention():
    """A host may repeat a prompt to reach the length of another in its batch; its maps then sum to the same."""
    words = tokens("a man is skiing")
    layout, maps = align(words, words), torch.rand(2, 3, CHUNK).softmax(dim=-1)
    twice = torch.cat([maps, maps], dim=-1) / 2
    torch.testing.assert_close(layout.blend(twice, twice), twice)
    torch.testing.assert_close(layout.blend(maps, twice), twice)


def test_attention_with_a_layout_is_attention_by_the_blended_maps(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    query, key, value, own, theirs = (
        torch.randn(*shape, generator=generator)
        for shape in ((6, 5, 8), (2, CHUNK, 8), (2, CHUNK, 8), (3, 5, 8), (1, CHUNK, 8))
    )
    layout = align(tokens("a man is skiing"), tokens("a panda is skiing"))
    expected = []
    for row in range(6):
        mine = attention_maps(query[row : row + 1], key[row // 3][None], 2)
        maps = layout.blend(attention_maps(own[row % 3][None], theirs, 2), mine)
        values = value[row // 3].unflatten(-1, (2, 4)).transpose(0, 1)
        expected.append((maps[0] @ values).transpose(0, 1).flatten(1))
    expected = torch.stack(expected)
    for largest in (2**25, 1):  # in one piece, and row by row
        monkeypatch.setattr("tav_core.layout.LARGEST", largest)
        got = attend_with_layout(query, key, value, 2, (own, theirs), layout)
        torch.testing.assert_close(got, expected)


def test_words_that_repeat_are_found_once_each_and_long_prompts_do_not_hang():
    def repeated(count: int) -> Tokens:
        return Tokens((5,) * count, (1, *range(2, count + 1)))

    assert repeated(4).find(repeated(2)) == [0, 1, 2, 3]
    assert len(repeated(100_000).find(repeated(3))) == 100_000
    assert repeated(100_000).find(repeated(50_000)) == []
    with pytest.raises(TavError, match="up to 1540 tokens, but one has 100000; shorten it"):
        align(repeated(3), repeated(100_000))
