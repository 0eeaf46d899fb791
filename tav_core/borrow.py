"""Borrowing inside a network: what layers compute for the source takes the place of what they compute for an edit.

Nothing here knows a host: a `Loan` makes forward hooks, which each host registers on its own layers.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor

from .attention import attend_heads
from .errors import TavError
from .layout import Layout, attend_with_layout

DECODER = "up_blocks."
NOT_SEEN = (
    "The network has not seen the source, so nothing can be borrowed from it; its prompt must apply to the whole video "
    "at all steps, and no cache may answer for it."
)


@dataclass(frozen=True)
class Structure:
    """The blocks that keep an edit's structure, by their paths in diffusers.

    features: residual blocks, whose last convolution is replaced.
    attention: transformer blocks, whose queries and keys of self-attention are replaced.
    temporal: transformer blocks, whose queries and keys of temporal attention are replaced.
    """

    features: tuple[str, ...] = ()
    attention: tuple[str, ...] = ()
    temporal: tuple[str, ...] = ()

    @classmethod
    def of(cls, resnets: Iterable[str], transformers: Iterable[str]) -> "Structure":
        """Plug-and-Play's choice, from all of a network's blocks: features of the decoder's fifth block of twelve, and
        attention from there on. A network with fewer blocks has its features at the same share of its decoder; one of
        only two levels, as the miniature, in its first block, which keeps far more than the others (docs/findings.md).
        """
        decoder = sorted(path for path in resnets if path.startswith(DECODER))
        chosen = decoder[len(decoder) * 4 // 12 if _place(decoder[-1])[0] > 1 else 0]
        later = [path for path in transformers if path.startswith(DECODER) and _place(path) >= _place(chosen)]
        return cls((chosen,), tuple(later))

    @property
    def layers(self) -> dict[str, tuple[str, str]]:
        """(path of the block, layer) of everything that is replaced, by a name of its own."""
        layers = {path: (path, "conv2") for path in self.features}
        for paths, attention in ((self.attention, "attn1"), (self.temporal, "attn_temp")):
            for path in paths:
                for part in ("to_q", "to_k"):
                    layers[f"{path}.{attention}.{part}"] = path, f"{attention}.{part}"
        return layers


def _place(path: str) -> tuple[int, int]:
    """Of a residual block or a transformer's block: its level in the decoder, and its number there."""
    _, level, _, number, *_ = path.split(".")
    return int(level), int(number)


class Loan:
    """Records what layers compute for the source, and puts it in place of what they compute for an edit."""

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}
        self.layout: Layout | None = None
        self._records_structure = self._records_layout = self._lends = False

    @contextmanager
    def recording(self, structure: bool, layout: bool) -> Iterator[None]:
        """In this context, the network sees the source; says what to record of it."""
        self.forget()
        self._records_structure, self._records_layout = structure, layout
        try:
            yield
        finally:
            self._records_structure = self._records_layout = False

    @contextmanager
    def lending(self, structure: bool, layout: Layout | None) -> Iterator[None]:
        """In this context, the network sees the edit."""
        self._lends, self.layout = structure, layout
        try:
            yield
        finally:
            self._lends, self.layout = False, None

    def forget(self) -> None:
        self.kept.clear()

    def replacing(self, name: str) -> Callable:
        """A forward hook for a layer whose output ((b f), ...) is replaced by the source's, (f, ...)."""

        def hook(_module, _args, output: Tensor) -> Tensor | None:
            if self._records_structure:
                self.kept[name] = output
            elif self._lends:
                return self._for(name, output)
            return None

        return hook

    def noting(self, name: str) -> Callable:
        """A forward hook for a layer whose output is only recorded."""

        def hook(_module, _args, output: Tensor) -> None:
            if self._records_layout:
                self.kept[name] = output

        return hook

    def attend(self, name: str, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Cross-attention of the layer whose query and key are noted under this name: (t, f n, c) -> (t, f n, c)."""
        if self.layout is None:
            return attend_heads(query, key, value, heads)
        source = self.source_of(name)
        tokens = source[0].shape[1]
        query = rearrange(query, "t (f n) c -> (t f) n c", n=tokens)
        output = attend_with_layout(query, key, value, heads, source, self.layout)
        return rearrange(output, "(t f) n c -> t (f n) c", t=len(key))

    def source_of(self, name: str) -> tuple[Tensor, Tensor]:
        """The source's query and key of a cross-attention."""
        if f"{name}.to_q" not in self.kept:
            raise TavError(NOT_SEEN)
        return self.kept[f"{name}.to_q"], self.kept[f"{name}.to_k"]

    def _for(self, name: str, output: Tensor) -> Tensor:
        if name not in self.kept:
            raise TavError(NOT_SEEN)
        kept = self.kept[name]
        if kept.shape[1:] != output.shape[1:] or len(output) % len(kept):
            raise TavError(
                f"The source's features are {tuple(kept.shape)}, but the edit's are {tuple(output.shape)}; both must "
                "have the same frames and the same size."
            )
        return kept.repeat(len(output) // len(kept), *(1,) * (kept.ndim - 1))
