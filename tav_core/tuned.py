"""Tuned weights: what one-shot tuning changed, stored apart from the checkpoint that was tuned."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass

import torch
from torch import Tensor

from .errors import TavError, brief, shown
from .families import NAMES, family_of_config
from .files import read_tensors, without_numbers, write_tensors
from .fingerprints import fingerprint
from .inflate import InflatedUNet
from .inflation import Inflation, difference_names
from .tuned_facts import VERSION, TunedFacts

FORMAT = f"tune-a-video/{VERSION}"
STORED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class TunedWeights:
    """The differences that tuning made to the query projections, and the whole added modules.

    tensors: by diffusers' module paths. They apply to any checkpoint with the same shapes, scaled by a strength.
    facts: the metadata: what they were tuned on, and how.
    """

    tensors: dict[str, Tensor]
    facts: TunedFacts = TunedFacts()

    def __post_init__(self):
        if isinstance(self.facts, Mapping):
            object.__setattr__(self, "facts", TunedFacts.from_metadata(self.facts))

    @classmethod
    def from_unet(cls, unet: InflatedUNet, *, base: Mapping[str, Tensor] | None = None, **facts) -> "TunedWeights":
        """Takes the trained tensors out of a tuned network.

        base: a copy of the query projections before tuning, or of a whole state dict; by default the copy
            that the network kept when it was first tuned.
        facts: fields of TunedFacts, or other JSON-serializable values; dataclasses such as TuneConfig become dicts.
        """
        base = unet.base_queries if base is None else base
        if base is None:
            raise TavError("This network has not been tuned; call tune(unet, ...) first, or pass the base's weights.")
        parameters = unet.trainable_parameters()
        tensors = {name: p.detach().to("cpu", torch.float32, copy=True) for name, p in parameters.items()}
        for name in difference_names(tensors):
            if base[name].data_ptr() == parameters[name].data_ptr():
                raise TavError("The base is the tuned network itself; pass a copy from before tuning, or omit it.")
            tensors[name] = tensors[name] - base[name].detach().float().cpu()
        given = {name: asdict(value) if is_dataclass(value) else value for name, value in facts.items()}
        known = {"base_fingerprint": fingerprint(unet, base), "inflation": unet.inflation}
        return cls(tensors, TunedFacts.of(**known | given))

    def save(self, path: str | os.PathLike) -> None:
        """Writes one .safetensors file atomically, with the metadata as JSON in its header."""
        write_tensors(path, self.tensors, FORMAT, self.facts.as_metadata())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "TunedWeights":
        """Reads a file written by `save`; raises TavError for any other."""
        if os.path.isdir(path):
            raise TavError(
                f"{path} is a folder; if it is a result of the original Tune-A-Video, convert it with `tav convert`."
            )
        try:
            tensors, metadata = read_tensors(path, FORMAT)
        except TavError as error:
            raise TavError(f"{error} Give the .safetensors file that tuning wrote.") from error
        try:
            facts = TunedFacts.from_metadata(metadata)
        except TavError as error:
            raise TavError(f"The metadata of {path} cannot be used: {error}") from error
        if odd := [name for name, tensor in tensors.items() if tensor.dtype not in STORED]:
            raise TavError(f"{path} is damaged: {shown(odd[0])} holds {tensors[odd[0]].dtype} instead of weights.")
        if broken := without_numbers(tensors):
            raise TavError(
                f"{path} holds NaN or infinite values, or no numbers at all, for example in {brief(broken[0])}; tune "
                "the clip again."
            )
        return cls(tensors, facts)

    def apply(self, unet: InflatedUNet, strength: float = 1.0) -> None:
        """Applies the weights to an inflated network of the same shapes, in place, replacing any applied before.

        strength: as in `Inflation.at_strength`; 0 gives exactly the inflated base.
        """
        parameters = unet.trainable_parameters()
        family = family_of_config(unet.unet.config, "This UNet")
        self.check_fits({name: parameter.shape for name, parameter in parameters.items()}, family)
        unet.keep_base_queries()
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor = tensor.to(parameters[name].device)
                base = unet.base_queries.get(name)
                parameters[name].copy_(unet.inflation.at_strength(name, tensor, strength, base))

    def check_fits(self, shapes: Mapping[str, torch.Size], family: str) -> None:
        """Raises TavError if the weights do not fit a network with trained tensors of these names and shapes.

        Weights of another family are refused even if the shapes match, as they may for Stable Diffusion 1.x and 2.x.
        """
        tuned_on = self.facts.family or family
        if tuned_on != family:
            raise TavError(
                f"These weights were tuned on {NAMES.get(tuned_on) or shown(tuned_on)}, but this is {NAMES[family]}; "
                "use a checkpoint of the family that was tuned."
            )
        own = {name: tensor.shape for name, tensor in self.tensors.items()}
        wrong = [
            f"{brief(name)} {tuple(own[name]) if name in own else 'missing'} "
            f"for {tuple(shapes[name]) if name in shapes else 'nothing'}"
            for name in sorted(own.keys() | shapes.keys())
            if own.get(name) != shapes.get(name)
        ]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            family = NAMES.get(self.facts.family) or "another model family"
            raise TavError(
                f"These tuned weights do not fit this network: {'; '.join(wrong[:3])}{more}. They were tuned on "
                f"{family}; use a checkpoint of that family, inflated in the same way ({_named(self.facts.inflation)})."
            )


def _named(inflation: Inflation) -> str:
    """The fields of an inflation on which the trained tensors depend."""
    names = ("temporal", "position_bias", "convolution", "merge", "queries", "known_frames")
    return ", ".join(f"{name}={getattr(inflation, name)}" for name in names)
