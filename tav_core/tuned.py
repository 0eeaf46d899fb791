"""Tuned weights: what one-shot tuning changed, kept apart from the checkpoint it was tuned on."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from .errors import TavError
from .families import NAMES, family_of_config
from .files import read_tensors, write_tensors
from .inflate import InflatedUNet, query_names

FORMAT = "tune-a-video/1"


@dataclass(frozen=True)
class TunedWeights:
    """The difference that tuning made to the query projections, and the temporal attention whole.

    tensors: by diffusers' module paths. Differences go onto any checkpoint of the same shapes, scaled by a strength.
    facts: what they were tuned on: fingerprint of the base, prompt, frames, size, fps, settings, losses.
    """

    tensors: dict[str, Tensor]
    facts: dict = field(default_factory=dict)

    @classmethod
    def from_unet(cls, unet: InflatedUNet, *, base: Mapping[str, Tensor] | None = None, **facts) -> "TunedWeights":
        """Takes the trained tensors out of a tuned network.

        base: a copy of the query projections before tuning, or of a whole state dict; by default what the network
            itself kept when it was first tuned.
        facts: anything JSON can hold, or a dataclass such as TuneConfig; they go into the file as they are.
        """
        base = unet.base_queries if base is None else base
        if base is None:
            raise TavError("This network has not been tuned; call tune(unet, ...) first, or give the base's weights.")
        parameters = unet.trainable_parameters()
        tensors = {name: p.detach().to("cpu", torch.float32, copy=True) for name, p in parameters.items()}
        for name in query_names(tensors):
            if base[name].data_ptr() == parameters[name].data_ptr():
                raise TavError("The base is the tuned network itself; give a copy from before tuning, or leave it out.")
            tensors[name] = tensors[name] - base[name].detach().float().cpu()
        inflation = {"attention": unet.attention, "group_norm": unet.group_norm, "temporal": unet.temporal}
        told = {name: asdict(fact) if is_dataclass(fact) else fact for name, fact in facts.items()}
        return cls(tensors, {"base_fingerprint": fingerprint(unet, base), **inflation, **told})

    def save(self, path: str | os.PathLike) -> None:
        """Writes one .safetensors file, whole or not at all; the facts are JSON in its header."""
        write_tensors(path, self.tensors, FORMAT, self.facts)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "TunedWeights":
        """Reads what `save` wrote; raises TavError for any other file."""
        if os.path.isdir(path):
            raise TavError(
                f"{path} is a folder; turn a result of the original Tune-A-Video into a file with `tav convert`."
            )
        try:
            tensors, facts = read_tensors(path, FORMAT)
        except TavError as error:
            raise TavError(f"{error} Give the .safetensors file that tuning wrote.") from error
        if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise TavError(f"{path} holds NaN or infinite values, in {broken[0]} for one; tune the clip anew.")
        return cls(tensors, facts)

    def apply(self, unet: InflatedUNet, strength: float = 1.0) -> None:
        """Puts the weights onto an inflated network of the same shapes, in place, in place of any applied before.

        strength: scales the differences and the temporal attention's contribution; 0 is the inflated base exactly.
        """
        parameters = unet.trainable_parameters()
        family = family_of_config(unet.unet.config, "This UNet")
        self.check_fits({name: parameter.shape for name, parameter in parameters.items()}, family)
        unet.keep_base_queries()
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor = tensor.to(parameters[name].device)
                if name in unet.base_queries:
                    tensor = unet.base_queries[name].to(tensor) + strength * tensor  # the network may have moved
                elif ".to_out." in name:
                    tensor = strength * tensor
                parameters[name].copy_(tensor)

    def check_fits(self, shapes: Mapping[str, torch.Size], family: str) -> None:
        """Raises TavError where a network whose tensors of these names have these shapes cannot take the weights.

        Those of another family are refused also where they have the same shapes, as of Stable Diffusion 1.x and 2.x.
        """
        if self.facts.get("family", family) != family:
            raise TavError(
                f"These weights were tuned on {NAMES.get(self.facts['family'], self.facts['family'])}, and this is "
                f"{NAMES[family]}; bring a checkpoint of the family that was tuned."
            )
        own = {name: tensor.shape for name, tensor in self.tensors.items()}
        wrong = [
            f"{name} {tuple(own[name]) if name in own else 'missing'} "
            f"for {tuple(shapes[name]) if name in shapes else 'nothing'}"
            for name in sorted(own.keys() | shapes.keys())
            if own.get(name) != shapes.get(name)
        ]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise TavError(
                f"These tuned weights do not fit this network: {'; '.join(wrong[:3])}{more}. They were tuned on "
                f"{self.facts.get('family', 'another model family')}; bring a checkpoint of that family, inflated as "
                f"it was then (temporal={self.facts.get('temporal')})."
            )


def fingerprint(unet: InflatedUNet | UNet2DConditionModel, queries: Mapping[str, Tensor] | None = None) -> str:
    """Names a base model by `fingerprint_of` its weights.

    queries: the query projections before tuning; by default what the network kept of them, if it was tuned.
    """
    queries = queries or getattr(unet, "base_queries", None) or {}
    return fingerprint_of({name: queries.get(name, tensor) for name, tensor in unet.state_dict().items()})


def fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    """Sha256 over a network's attention projections in fp16, by sorted diffusers key.

    The same for a folder and a single file, fp16 and fp32.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        if (".attn1." in name or ".attn2." in name) and name.endswith("weight"):
            digest.update(name.encode())
            digest.update(tensor.detach().to(torch.float16).cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
