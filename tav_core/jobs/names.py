"""File names made from prompts, valid on every operating system."""

import re
import unicodedata
from collections.abc import Iterable

LONGEST = 50  # characters: at most 200 bytes of UTF-8, and paths stay below the 260 characters of Windows
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))}


def file_names(prompts: Iterable[str], *, taken: Iterable[str] = ()) -> list[str]:
    """A name without suffix for each prompt: its letters and digits in any script, in lower case, joined by hyphens.

    Safe on Windows (no reserved device names, no trailing dot or space, short), unique there too, where case does not
    matter, and none is among `taken`.
    """
    used, names = {_as_windows_sees(name) for name in taken}, []
    for prompt in prompts:
        stem = name = _slug(prompt)
        number = 1
        while _as_windows_sees(name) in used:
            number += 1
            name = f"{stem}-{number}"
        used.add(_as_windows_sees(name))
        names.append(name)
    return names


def _slug(prompt: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", prompt).lower())
    kept = "".join(c if unicodedata.category(c)[0] in "LNM" else " " for c in text)
    slug = re.sub(" +", "-", kept.strip())[:LONGEST].rstrip("-")
    return f"edit-{slug}".rstrip("-") if not slug or slug.upper() in RESERVED else slug


def _as_windows_sees(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name.upper()).casefold())
