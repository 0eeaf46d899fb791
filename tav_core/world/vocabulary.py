"""The miniature's words, as a CLIP tokenizer: every word of the world is one token."""

import json
import re
from pathlib import Path

from transformers import CLIPTokenizer

from .scene import ACTIONS, COLOURS, FIGURES, GROUNDS, SHAPES, SIZES, STYLES

WORDS = ("a", "an", "and", "the", "is", "are", "moving", "on", "at", "night", "cartoon", "style", "sks", ",")
WORDS = (*WORDS, *COLOURS, *SHAPES, *FIGURES, *ACTIONS, *GROUNDS, *SIZES)
START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Writes a byte-pair encoding with a token for each of WORDS, in files that every version of transformers reads."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens, merges = {**dict.fromkeys(letters), **dict.fromkeys(letter + "</w>" for letter in letters)}, {}
    for word in sorted(WORDS, key=len, reverse=True):  # "moon" before "on", or it would be split
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges[" ".join(pieces[:2])] = None
            pieces[:2] = ["".join(pieces[:2])]
            tokens[pieces[0]] = None
    vocabulary = {token: number for number, token in enumerate([*tokens, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def unknown_words(prompt: str) -> list[str]:
    """The words of a prompt that the miniature was not trained on; it accepts them, but what it draws is arbitrary."""
    return [word for word in dict.fromkeys(_words(prompt)) if word.isalnum() and word not in WORDS]


def attributes_in(prompt: str) -> dict[str, str]:
    """The first colour, kind, ground and style in a prompt; those it does not mention are left out."""
    words = _words(prompt)
    known = {"colour": COLOURS, "kind": (*SHAPES, *FIGURES), "ground": GROUNDS}
    found = {name: next((word for word in words if word in values), None) for name, values in known.items()}
    found["style"] = next((style for style in STYLES if style in words), "plain")
    return {name: value for name, value in found.items() if value}


def _words(prompt: str) -> list[str]:
    """Words and punctuation marks, as a CLIP tokenizer splits them."""
    return re.findall(r"\w+|[^\w\s]", prompt.lower())
