"""The numbers that the original implementation gave (tests/golden/), and our networks built from the same weights."""

import json
from dataclasses import dataclass
from pathlib import Path

from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor

from tav_core import InflatedUNet, inflate

FOLDER = Path(__file__).with_name("golden")
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass
class Case:
    """One file of the set, with the weights that it shares with others: `unet2d.*` and `temp.*`."""

    config: dict | None
    settings: dict
    tensors: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def unet2d(self) -> UNet2DConditionModel:
        unet = UNet2DConditionModel(**self.config).eval()
        unet.load_state_dict(self.part("unet2d."))
        return unet

    def unet(self) -> InflatedUNet:
        unet = inflate(self.unet2d())
        unet.load_state_dict(self.part("unet2d.") | self.part("temp."))  # strict: the original's keys and shapes
        return unet.eval()


def load(name: str) -> Case:
    facts = json.loads((FOLDER / f"{name}.json").read_text())
    weights = load_file(FOLDER / f"{facts['weights']}.safetensors") if "weights" in facts else {}
    return Case(facts.get("unet2d_config"), facts["settings"], load_file(FOLDER / f"{name}.safetensors") | weights)


def ddim(**config) -> DDIMScheduler:
    """The scheduler of the original's validation."""
    return DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **config)


def worst(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return (got - expected).abs().max().item()
