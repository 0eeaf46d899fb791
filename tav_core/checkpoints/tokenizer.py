"""Stable Diffusion's CLIP tokenizer, built offline from the merges that ship with this package."""

import functools
import json
import re
import tempfile
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from ..errors import TavError, brief, is_out_of_memory, shown
from ..layout import Tokens
from .configs import read_json, read_text
from .prompt_weights import weighted_parts

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


def open_tokenizer(folder: Path, length: int, size: int) -> CLIPTokenizer:
    """Opens the tokenizer of a diffusers folder; raises TavError for one that is not whole.

    length: of a prompt, in tokens. size: of the text encoder's vocabulary.
    """
    name = f"{folder.parent.name}/{folder.name}"
    if not any((folder / vocabulary).is_file() for vocabulary in ("vocab.json", "tokenizer.json")):
        raise TavError(f"{name} has no vocabulary: download the folder again.")
    try:
        _check_files(folder)
        tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=length, local_files_only=True)
        ids = tokenizer("a b", padding="max_length", max_length=length, truncation=True).input_ids
    except Exception as error:  # transformers and tokenizers fail in many ways
        if is_out_of_memory(error):
            raise
        raise TavError(f"The tokenizer {name} is damaged ({brief(error)}): download the folder again.") from error
    ends = tokenizer.bos_token_id, tokenizer.eos_token_id
    if len(ids) != length or ids[0] != ends[0] or ids[3] != ends[1] or len(tokenizer) > size:
        raise TavError(
            f"The tokenizer {name} has {len(tokenizer)} tokens and does not fit its text encoder, which takes {length} "
            f"of {size}: download the folder again."
        )
    return tokenizer


def _check_files(folder: Path) -> None:
    """Raises an exception for files that are cut or not there; of cut merges, CLIP's tokenizer makes other tokens."""
    for path in folder.glob("*.json"):
        if not path.name.startswith(".") and not isinstance(json.loads(read_text(path)), dict):
            raise ValueError(f"{path.name} is not a JSON object")
    whole, parts = folder / "tokenizer.json", (folder / "vocab.json", folder / "merges.txt")
    if whole.is_file():
        model = read_json(whole)["model"]
        _check_merges(model["vocab"], [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]])
    if not whole.is_file() or any(part.is_file() for part in parts):
        lines = [line for line in read_text(parts[1]).splitlines() if line and not line.startswith("#version")]
        _check_merges(read_json(parts[0]), [line.split(" ") for line in lines])


def _check_merges(vocabulary: dict[str, int], merges: list[list[str]]) -> None:
    """Raises ValueError unless merges and vocabulary belong together: each merge makes a token, and none lacks one."""
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError("tokens that share a number, or have none")
    made = {"".join(pair) for pair in merges}
    if not all(len(pair) == 2 for pair in merges) or not made <= vocabulary.keys():
        raise ValueError("merges that make no token of its vocabulary")
    whole = [token for token in vocabulary if len(token.removesuffix("</w>")) > 1 and not re.fullmatch("<.+>", token)]
    if lost := [token for token in whole if token not in made]:
        raise ValueError(f"{len(lost)} tokens that no merge makes, such as {shown(lost[0])}")


def token_ids(tokenizer: CLIPTokenizer, prompt: str) -> tuple[list[int], list[float]]:
    """A prompt's tokens, padded or truncated to the tokenizer's length, and the weight of each."""
    ids, weights = [], []
    for part, weight in weighted_parts(prompt):
        ids += (own := _spelled(tokenizer, part))
        weights += [weight] * len(own)
    length = tokenizer.model_max_length
    ids = [tokenizer.bos_token_id, *ids[: length - 2], tokenizer.eos_token_id]
    weights = [1.0, *weights[: length - 2], 1.0]
    padding = length - len(ids)
    return ids + [tokenizer.pad_token_id] * padding, weights + [1.0] * padding


def all_ids(tokenizer: CLIPTokenizer, prompt: str) -> list[int]:
    """All tokens of a prompt, without start and end, however many they are."""
    return [token for part, _ in weighted_parts(prompt) for token in _spelled(tokenizer, part)]


def tokens_of(tokenizer: CLIPTokenizer, prompt: str) -> Tokens:
    """A prompt's tokens as `Checkpoint.encode_prompt` encodes them, and the words, apart by spaces, that they spell."""
    length, (ids, _) = tokenizer.model_max_length, token_ids(tokenizer, prompt)
    words, number, inside = [], 0, False
    for part, _ in weighted_parts(prompt):
        for place, word in enumerate(part.split()):
            number += not (place == 0 and inside and not part[0].isspace())  # a weight may begin within a word
            words += [number] * len(_spelled(tokenizer, word))
        inside = bool(part) and not part[-1].isspace()
    words = words[: length - 2]
    ends = {place for place, token in enumerate(tokenizer.convert_ids_to_tokens(ids)) if token.endswith("</w>")}
    return Tokens(tuple(ids), (0, *words, *(0,) * (length - 1 - len(words))), frozenset(ends))


def _spelled(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def _vocabulary(merges: list[str]) -> dict[str, int]:
    # OpenAI's order: the 256 bytes, the same at the end of a word, all merges, the two special tokens.
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    return {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
