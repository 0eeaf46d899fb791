"""The precisions that networks are tuned and sampled in."""

import torch

from .errors import TavError

PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def tuning_precision(mixed_precision: str, stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype that a tuning step computes in; float32 means no autocast.

    mixed_precision: one of PRECISIONS, or "auto": the dtype that the network is stored in, except that a float32
        network on a GPU is tuned in bf16, or in fp16 if the GPU lacks bf16.
    Raises TavError for a network stored in a half precision other than the one asked for.
    """
    if stored not in PRECISIONS.values():
        raise TavError(f"A network stored in {stored} cannot be tuned; load it with dtype=torch.float32.")
    if mixed_precision == "auto":
        if stored != torch.float32 or device.type != "cuda":
            return stored
        return _best_half(device)
    precision = PRECISIONS[mixed_precision]
    if stored not in (torch.float32, precision):
        own = next(name for name, dtype in PRECISIONS.items() if dtype == stored)
        raise TavError(
            f'mixed_precision "{mixed_precision}" does not work with a network stored in {stored}. Load it with '
            f'dtype=torch.float32, or set mixed_precision to "{own}".'
        )
    return precision


def sampling_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that networks are sampled in: one of PRECISIONS, or "auto": fp16 on a GPU, float32 on the CPU."""
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return PRECISIONS[precision]


def _best_half(device: torch.device) -> torch.dtype:
    with torch.cuda.device(device):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
