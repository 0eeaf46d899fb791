"""Which layers of a MODEL a loan hooks: tav_core/lend.py on ComfyUI's UNet."""

from collections.abc import Iterator
from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher
from torch import nn

from ...tav_core.borrow import Loan, Structure
from .added import AddedWeights
from .sd_model import HOST_PLACES, block_paths, modules_by_path

KEEP = "tune_a_video_keep"
"""Key of the wrappers around the samplers of a MODEL whose edits keep something of a clip."""
LOAN = "tune_a_video_loan"
"""Key of the transformer options: (Loan, Borrowing) while a source lends or an edit borrows."""


@dataclass(frozen=True, eq=False)
class Borrowing:
    """The layers of a network that lend and borrow.

    resnets, transformers: the blocks' paths in diffusers -> their paths in the host's UNet.
    """

    structure: Structure
    resnets: dict[str, str]
    transformers: dict[str, str]

    @classmethod
    def of(cls, patcher: ModelPatcher) -> "Borrowing":
        """The default for this MODEL."""
        resnets, transformers = (block_paths(patcher, place) for place in ("resnet", "transformer"))
        return cls(Structure.of(resnets, transformers), resnets, transformers)

    def hooks(self, loan: Loan, unet: nn.Module, added: AddedWeights | None) -> Iterator[tuple[nn.Module, object]]:
        """(layer, forward hook) for each layer that lends or borrows."""
        modules = modules_by_path(unet)
        for name, (path, layer) in self.structure.layers.items():
            if layer.startswith("attn_temp"):
                if added is not None and path in added.paths:
                    block = added.blocks[added.paths.index(path)]
                    yield block.get_submodule(layer), loan.replacing(name)
            elif path in self.resnets:
                yield modules[f"{self.resnets[path]}.{HOST_PLACES['resnet']}"], loan.replacing(name)
            else:
                yield modules[f"{self.transformers[path]}.{layer}"], loan.replacing(name)
        for path, own in self.transformers.items():
            for part in ("to_q", "to_k"):
                yield modules[f"{own}.attn2.{part}"], loan.noting(f"{path}.attn2.{part}")
