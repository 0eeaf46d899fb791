"""The metadata of a tuned-weights file: one typed schema for every reader and writer."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import get_args, get_type_hints

from .errors import TavError, shown
from .inflation import Inflation

VERSION = 1
"""The version of the format. Readers keep unknown keys, so only a key that changes its meaning needs a new version."""

ENTRIES = {
    "loras": {"file": str | None, "strength": float | None},
    "controls": {
        **dict.fromkeys(("kind", "network", "pictures"), str | None),
        **dict.fromkeys(("strength", "start", "end"), float | None),
    },
}
"""What an entry of these lists may hold, besides what this version does not know."""


@dataclass(frozen=True)
class TunedFacts:
    """What weights were tuned on, and how; unknown fields are None.

    family: "sd1" or "sd2". checkpoint: the base's file name. base_fingerprint: by `fingerprints.fingerprint`.
    prediction_type: "epsilon" or "v_prediction". inflation: how the network was inflated.
    prompt: describes the clip. clip: its file name. frames, size ([width, height]), start, stride, fit: which of its
        frames, as in `Selection`. by_time: whether they were chosen by time. fps: of these frames.
    posterior: whether the VAE's posterior was sampled.
    loras: {"file", "strength"} of each LoRA. controls: {"kind", "network", "pictures", "strength", "start", "end"} of
        each.
    config: the fields of TuneConfig. steps: done. final_loss: of the last step. run: the run's fingerprint.
    source: the original's result that they were converted from. version: of this package when they were tuned.
    more: keys that this version does not know, unchanged.
    """

    family: str | None = None
    checkpoint: str | None = None
    base_fingerprint: str | None = None
    prediction_type: str | None = None
    inflation: Inflation = Inflation()
    prompt: str | list | None = None
    clip: str | None = None
    frames: int | None = None
    size: list | int | None = None
    start: int | None = None
    stride: int | None = None
    fit: str | None = None
    by_time: bool | None = None
    fps: float | None = None
    posterior: bool | None = None
    loras: list | None = None
    controls: list | None = None
    config: dict | None = None
    steps: int | None = None
    final_loss: float | None = None
    run: str | None = None
    source: str | None = None
    version: str | None = None
    more: dict = field(default_factory=dict)

    @classmethod
    def of(cls, /, **given) -> "TunedFacts":
        """Takes fields by name; other JSON-serializable values go to `more`."""
        names = {each.name for each in fields(cls)} - {"more"}
        known = {name: value for name, value in given.items() if name in names}
        types = get_type_hints(cls)
        for name, value in known.items():
            if name != "inflation":
                _ensure(name, value, types[name])
        for name, fields_of_one in ENTRIES.items():
            for entry in known.get(name) or ():
                _ensure(f"each of {name}", entry, dict | None)
                for key in fields_of_one.keys() & (entry or {}).keys():
                    _ensure(f"{key} of {name}", entry[key], fields_of_one[key])
        for name, kind in {"prompt": str, "size": int}.items():
            if isinstance(value := known.get(name), (list, tuple)):
                for part in value:
                    _ensure(f"each part of {name}", part, kind | None)
        if isinstance(size := known.get("size"), (list, tuple)) and len(size) != 2:
            raise TavError(f"size must be a width and a height; got {shown(size)}.")
        return cls(**known, more={name: value for name, value in given.items() if name not in names})

    @classmethod
    def from_metadata(cls, metadata: Mapping) -> "TunedFacts":
        """Reads what `as_metadata` returned; raises TavError for a value of the wrong type."""
        inflation = Inflation.from_metadata(metadata)
        own = {"inflation", *inflation.as_metadata()}
        return cls.of(inflation=inflation, **{name: value for name, value in metadata.items() if name not in own})

    def as_metadata(self) -> dict:
        """A flat, JSON-serializable dict of the known fields and of those of the inflation."""
        known = {name: value for name, value in vars(self).items() if name not in ("inflation", "more")}
        known = {name: value for name, value in known.items() if value is not None}
        return self.more | self.inflation.as_metadata() | known


def sibling_note(facts: TunedFacts, checkpoint: str, fingerprint: str) -> str | None:
    """A warning if weights are applied to a checkpoint other than the one they were tuned on; else None."""
    tuned_on = str(facts.base_fingerprint)
    if tuned_on == fingerprint:
        return None
    return (
        f"The weights were tuned on {facts.checkpoint or 'a checkpoint'} (fingerprint {tuned_on[:12]}), but "
        f"{checkpoint} is another one ({fingerprint[:12]}); edits may follow the clip less closely."
    )


def missing_names(recorded: list[dict] | None, present: Collection[str], key: str) -> str:
    """Lists the LoRAs or controls that weights were tuned with and that are missing now; "" if there are none.

    recorded: as `TunedFacts` holds them. present: their names now. key: the field with the name, "file" or "network".
    """
    recorded = recorded or []
    missing = [each[key] for each in recorded if each.get(key) and each[key] not in present]
    unnamed = sum(not each.get(key) for each in recorded)
    if unnamed and len(present) < len(recorded):  # else one of those present may well be it
        missing.append({"file": "an unknown LoRA", "network": "an unknown control"}[key])
    return ", ".join(missing)


def _ensure(name: str, value: object, kind: UnionType) -> None:
    if not _is(value, kind):
        raise TavError(f"{name} must be {_named(kind)}; got {shown(value)}.")


def _is(value: object, kind: UnionType) -> bool:
    wider, options = {float: (int, float), list: (list, tuple)}, get_args(kind)
    if isinstance(value, bool):  # which Python takes for a number
        return bool in options
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return any(isinstance(value, wider.get(option, option)) for option in options)


def _named(kind: UnionType) -> str:
    words = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list"}
    return words.get(get_args(kind)[0], "a table")
