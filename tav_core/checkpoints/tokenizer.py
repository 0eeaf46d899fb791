"""Stable Diffusion's CLIP tokenizer, built offline from the merges that ship with this package."""

import functools
import json
import tempfile
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from ..layout import Tokens

# CLIP's public byte-pair merges, in order of rank: the first 48894 of OpenAI's bpe_simple_vocab_16e6 (MIT licence).
MERGES = Path(__file__).parent / "assets" / "clip_merges.txt"


@functools.cache  # all open checkpoints share it, so nothing may be added to it
def clip_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """Builds the tokenizer of 49408 tokens, 77 to a prompt; SD 1.x pads with <|endoftext|>, SD 2.x with "!"."""
    with tempfile.TemporaryDirectory() as folder:  # the only form that every version of transformers reads
        merges = MERGES.read_text(encoding="utf-8")
        Path(folder, "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
        Path(folder, "vocab.json").write_text(json.dumps(_vocabulary(merges.splitlines())), encoding="utf-8")
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": pad_token}
        Path(folder, "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def tokens_of(tokenizer: CLIPTokenizer, prompt: str) -> Tokens:
    """A prompt's tokens as `Checkpoint.encode_prompt` encodes them, and the words, apart by spaces, that they spell."""
    length = tokenizer.model_max_length
    ids = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, verbose=False).input_ids
    spelled = [tokenizer(word, add_special_tokens=False, verbose=False).input_ids for word in prompt.split()]
    words = [number for number, word in enumerate(spelled, 1) for _ in word][: length - 2]
    ends = {place for place, token in enumerate(tokenizer.convert_ids_to_tokens(ids)) if token.endswith("</w>")}
    return Tokens(tuple(ids), (0, *words, *(0,) * (length - 1 - len(words))), frozenset(ends))


def _vocabulary(merges: list[str]) -> dict[str, int]:
    # OpenAI's order: the 256 bytes, the same at the end of a word, all merges, the two special tokens.
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    return {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
