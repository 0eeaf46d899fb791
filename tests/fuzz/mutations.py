"""Seeded mutations by byte and by structure. Each takes a random.Random first and returns something new."""

import copy
import json
import struct
from collections.abc import Callable, Mapping
from random import Random

import torch
from torch import Tensor

DEEP = "@deep@"
"""Stands for a value nested deeper than any recursion gets, which only `as_json` and `as_yaml` can write."""
ODD = (
    None, True, False, 0, 1, -1, 2, 7, 255, 2**31, -(2**31), 2**63, 10**30, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), -float("inf"), "", " ", "a", "0", "no", "null", "²", "1e5", "../../etc/passwd",
    "/dev/zero", "nul\0", "esc\x1b[31mred", "line\nbreak", "half\ud800", "%d%s{}", "男の子", "x" * 100_000,
    "x " * 50_000, [], {}, [[]], [None], {"": None}, {"a": {"b": {"c": [{}]}}}, [0] * 10_000, ["a", 1, None], DEEP,
)  # fmt: skip
NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
DTYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int64, torch.int8,
    torch.uint8, torch.bool, torch.complex64,
)  # fmt: skip


def times(rng: Random, change: Callable, value: object, most: int = 3) -> object:
    """The value, changed once or a few times."""
    for _ in range(rng.randint(1, most)):
        value = change(rng, value)
    return value


def of_bytes(rng: Random, data: bytes) -> bytes:
    """Data with flipped bits, odd numbers, a cut, an insert, a swap, or a block of one value."""
    if not data:
        return rng.randbytes(rng.randint(1, 64))
    # the start of a file decides most, so half of all changes are there
    start = rng.randrange(min(len(data), rng.choice((16, 256, 4096, len(data)))))
    length = min(len(data) - start, rng.choice((1, 2, 4, 16, 256, 4096)))
    kind = rng.randrange(8)
    if kind == 0:
        return data[:start]
    if kind == 1:
        return data[:start] + data[start + length :]
    if kind == 2:
        return data[:start] + rng.randbytes(length) + data[start:]
    if kind == 3:
        other = rng.randrange(len(data))
        return data[:start] + data[other : other + length] + data[start + length :]
    if kind == 4:
        return data[:start] + bytes([rng.choice((0, 255, 32, 10, 123))]) * length + data[start + length :]
    if kind == 5:
        number = struct.pack(rng.choice((">I", "<I")), rng.choice(NUMBERS))
        return data[:start] + number + data[start + 4 :]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 32))):
        changed[rng.randrange(start, start + length)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def of_boxes(rng: Random, data: bytes, names: tuple[bytes, ...]) -> bytes:
    """Data with an odd number near one of these four-letter names: in the structures that a container is made of."""
    places = [place for name in names for place in _places(data, name)]
    if not places:
        return of_bytes(rng, data)
    place = rng.choice(places) + 4 * rng.randint(-1, 12)
    return data[:place] + struct.pack(">I", rng.choice(NUMBERS)) + data[place + 4 :]


def _places(data: bytes, name: bytes) -> list[int]:
    places, place = [], data.find(name)
    while place >= 0:
        places.append(place)
        place = data.find(name, place + 1)
    return places


def of_text(rng: Random, text: str) -> str:
    """A text with pieces cut, doubled or replaced by odd ones."""
    place = rng.randrange(len(text) + 1)
    end = min(len(text), place + rng.choice((0, 1, 5, 50)))
    odd = rng.choice([each for each in ODD if isinstance(each, str) and each != DEEP])
    return text[:place] + rng.choice((odd, "", text[place:end] * 2, chr(rng.randrange(0xD7FF)))) + text[end:]


def of_value(rng: Random, value: object) -> object:
    """A JSON-like value, of which one part is dropped, replaced, retyped, deepened, doubled or made up."""
    value = copy.deepcopy(value)
    holders = list(_holders(value))
    if not holders:
        return odd_value(rng)
    holder = rng.choice(holders)
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    kind = rng.randrange(7)
    if not keys or kind == 0:
        _add(rng, holder)
        return value
    key = rng.choice(keys)
    if kind == 1:
        del holder[key]
    elif kind == 2:
        holder[key] = retyped(rng, holder[key])
    elif kind == 3:
        holder[key] = [[holder[key]]] if rng.random() < 0.5 else {"a": holder[key]}
    elif kind == 4:
        holder[key] = copy.deepcopy(holder[rng.choice(keys)])
    else:
        holder[key] = odd_value(rng)
    return value


def odd_value(rng: Random) -> object:
    return copy.deepcopy(rng.choice(ODD))


def retyped(rng: Random, value: object) -> object:
    """The same value in another type, as far as there is one."""
    if isinstance(value, str):
        return rng.choice((list(value[:20]), {"value": value}, len(value), value.encode(errors="surrogatepass").hex()))
    if isinstance(value, (bool, int, float)):
        return rng.choice((str(value), [value], -value, value + 0.5, value * 10**6, bool(value)))
    if isinstance(value, list):
        return rng.choice((dict(enumerate(map(str, value[:20]))), str(value)[:100], len(value), [*value, None]))
    return rng.choice((list(value), str(value)[:100])) if isinstance(value, dict) else [value]


def _holders(value: object) -> list:
    found = [value] if isinstance(value, (dict, list)) else []
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        found += _holders(part)
    return found


def _add(rng: Random, holder: dict | list) -> None:
    if isinstance(holder, dict):
        holder[rng.choice(("a", "", "²", "x" * 10_000, "esc\x1b[31m", *holder))] = odd_value(rng)
    else:
        holder.insert(rng.randint(0, len(holder)), odd_value(rng))


def as_json(value: object) -> str:
    return json.dumps(value).replace(f'"{DEEP}"', "[" * 50_000 + "]" * 50_000)


def of_tensors(rng: Random, tensors: Mapping[str, Tensor], metadata: object) -> tuple[dict[str, Tensor], object]:
    """Tensors by name and their metadata, of which one thing is changed; names and shapes come from each other."""
    tensors = dict(tensors)
    if not tensors or rng.random() < 0.4:
        return tensors, of_value(rng, metadata)
    name = rng.choice(list(tensors))
    kind = rng.randrange(5)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[of_text(rng, name).replace("\ud800", "?")[:200]] = tensors.pop(name)
    elif kind == 2:
        tensors[name] = tensors[rng.choice(list(tensors))].clone()
    else:
        tensors[name] = of_tensor(rng, tensors[name])
    return tensors, metadata


def of_tensor(rng: Random, tensor: Tensor) -> Tensor:
    """A tensor of another shape or dtype, or with values that are no weights."""
    kind = rng.randrange(8)
    if kind == 0:
        return tensor.float().to(rng.choice(DTYPES))
    if kind == 1:
        return tensor.reshape(-1).clone()
    if kind == 2:
        return tensor[None].clone()
    if kind == 3:
        return tensor[:0].clone() if tensor.ndim else torch.zeros(0)
    if kind == 4:
        return torch.zeros(()) if tensor.ndim else torch.zeros(2, 3)
    if kind == 5:
        return tensor.transpose(0, -1).contiguous() if tensor.ndim > 1 else torch.cat([tensor.reshape(-1)] * 2)
    if kind == 6:
        return torch.full(tensor.shape, rng.choice((float("nan"), float("inf"), 1e30)))
    return torch.zeros(*(rng.choice((0, 1, 2, 64)) for _ in range(rng.randint(1, 5))))


def of_header(rng: Random, data: bytes) -> bytes:
    """A .safetensors file whose header lies about its tensors, or is none."""
    length = int.from_bytes(data[:8], "little")
    header = as_json(times(rng, of_value, json.loads(data[8 : 8 + length]))).encode("utf-8", "surrogatepass")
    stated = len(header) if rng.random() < 0.8 else rng.choice((0, 1, 2**31, 2**63, len(header) + 1))
    return stated.to_bytes(8, "little") + header + data[8 + length :]
