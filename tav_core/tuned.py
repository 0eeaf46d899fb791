"""Tuned weights: what one-shot tuning changed, kept apart from the checkpoint it was tuned on."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import TavError
from .files import atomic_path
from .inflate import InflatedUNet

FORMAT = "tune-a-video/1"
QUERIES = (".attn1.to_q.", ".attn2.to_q.")


@dataclass(frozen=True)
class TunedWeights:
    """The difference that tuning made to the query projections, and the temporal attention whole.

    tensors: by diffusers' module paths. Differences go onto any checkpoint of the same shapes, scaled by a strength.
    facts: what they were tuned on: fingerprint of the base, prompt, frames, size, fps, settings, losses.
    """

    tensors: dict[str, Tensor]
    facts: dict = field(default_factory=dict)

    @classmethod
    def from_unet(cls, unet: InflatedUNet, *, base: Mapping[str, Tensor], **facts) -> "TunedWeights":
        """Takes the trained tensors out of a tuned network.

        base: the query projections before tuning, as `query_projections` copies them (a whole state dict will do).
        facts: anything JSON can hold, or a dataclass such as TuneConfig; they go into the file as they are.
        """
        tensors = {name: p.detach().float().cpu() for name, p in unet.trainable_parameters().items()}
        for name in _queries(tensors):
            tensors[name] = tensors[name] - base[name].detach().float().cpu()
        inflation = {"attention": unet.attention, "group_norm": unet.group_norm, "temporal": unet.temporal}
        told = {name: asdict(fact) if is_dataclass(fact) else fact for name, fact in facts.items()}
        return cls(tensors, {"base_fingerprint": fingerprint(unet, base), **inflation, **told})

    def save(self, path: str | os.PathLike) -> None:
        """Writes one .safetensors file, whole or not at all; the facts are JSON in its header."""
        metadata = {"format": FORMAT, "facts": json.dumps(self.facts)}
        with atomic_path(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, temporary, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "TunedWeights":
        """Reads what `save` wrote; raises TavError for any other file."""
        if not os.path.isfile(path):
            raise TavError(f"There is no file {path}; give the .safetensors file that tuning wrote.")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise TavError(f"{path} is not a readable .safetensors file ({error}).") from error
        if metadata.get("format") != FORMAT:
            said = metadata.get("format", "no format of ours")
            raise TavError(f"{path} does not hold tuned weights of format {FORMAT} (it says: {said}).")
        return cls(tensors, json.loads(metadata["facts"]))

    def apply(self, unet: InflatedUNet, strength: float = 1.0) -> None:
        """Puts the weights onto an inflated network of the same shapes, in place, in place of any applied before.

        strength: scales the differences and the temporal attention's contribution; 0 is the inflated base exactly.
        """
        parameters = unet.trainable_parameters()
        self._check_fits(parameters)
        if unet.base_queries is None:
            unet.base_queries = query_projections(unet)
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor = tensor.to(parameters[name].device)
                if name in unet.base_queries:
                    tensor = unet.base_queries[name].float() + strength * tensor
                elif ".to_out." in name:
                    tensor = strength * tensor
                parameters[name].copy_(tensor)

    def _check_fits(self, parameters: Mapping[str, Tensor]) -> None:
        wrong = [
            f"{name} {tuple(self.tensors[name].shape) if name in self.tensors else 'missing'} "
            f"for {tuple(parameters[name].shape) if name in parameters else 'nothing'}"
            for name in sorted(self.tensors.keys() | parameters.keys())
            if name not in self.tensors or name not in parameters or self.tensors[name].shape != parameters[name].shape
        ]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise TavError(
                f"These tuned weights do not fit this network: {'; '.join(wrong[:3])}{more}. They were tuned on "
                f"{self.facts.get('family', 'another model family')}; bring a checkpoint of that family, inflated as "
                f"it was then (temporal={self.facts.get('temporal')})."
            )


def query_projections(unet: InflatedUNet) -> dict[str, Tensor]:
    """A copy of the projections that tuning changes; take it before tuning."""
    parameters = unet.trainable_parameters()
    return {name: parameters[name].detach().clone() for name in _queries(parameters)}


def fingerprint(unet: InflatedUNet, queries: Mapping[str, Tensor] | None = None) -> str:
    """Names a base model: sha256 over its attention projections in fp16, by sorted diffusers key.

    queries: the query projections before tuning, where `unet` has tuned ones already. The same for a folder and a
    single file, fp16 and fp32.
    """
    weights = {
        name: (queries or {}).get(name, tensor)
        for name, tensor in unet.state_dict().items()
        if (".attn1." in name or ".attn2." in name) and name.endswith("weight")
    }
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().to(torch.float16).cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _queries(names) -> list[str]:
    return [name for name in names if any(part in name for part in QUERIES)]
