"""What the shell says of a control: a network's file, the pictures that it looks at, how much and when."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import T2IAdapter, UNet2DConditionModel
from einops import rearrange
from torch import Tensor

from ..checkpoints.control_networks import open_controlnet, open_t2i_adapter
from ..checkpoints.lora import NUMBER
from ..control import Control, check_control
from ..errors import TavError
from ..families import NAMES, WIDTHS, check_addition, family_of_config
from ..video.choose import select_frames
from ..video.decode import VideoFile
from ..video.frames import fitted
from ..video.image_folder import ImageFolder
from .selection import Selection

KINDS = {"controlnet": open_controlnet, "t2i-adapter": open_t2i_adapter}
FORM = "TYPE:PATH[:STRENGTH[:START:END]]"


@dataclass(frozen=True)
class ControlChoice:
    """A control that is not opened yet.

    kind: one of KINDS. network: a file or a diffusers folder. pictures: a clip, a folder of images or one image.
    strength, start, end: as `Control` has them.
    """

    kind: str
    network: Path
    pictures: Path
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        check_control(self.strength, self.start, self.end)

    @classmethod
    def parse(cls, text: str, pictures: str | os.PathLike) -> "ControlChoice":
        """Reads TYPE:PATH[:STRENGTH[:START:END]], as the shell takes it."""
        match = re.fullmatch(rf"({'|'.join(KINDS)}):(.+?)(?::({NUMBER})(?::({NUMBER}):({NUMBER}))?)?", text)
        if not match or re.search(rf":{NUMBER}$", match[2]):
            raise TavError(f"The control is {text!r}; give {FORM}, where TYPE is {' or '.join(KINDS)}.")
        kind, network, *numbers = match.groups()
        return cls(kind, Path(network), Path(pictures), *(float(number) for number in numbers if number is not None))

    def as_metadata(self) -> dict:
        """All of it except the folders, as JSON holds it."""
        names = {"kind": self.kind, "network": self.network.name, "pictures": self.pictures.name}
        return names | {"strength": self.strength, "start": self.start, "end": self.end}

    def open(
        self, selection: Selection, unet: UNet2DConditionModel, device: torch.device, dtype: torch.dtype
    ) -> Control:
        """Opens network and pictures for the frames of a selection; TavError where either does not fit."""
        network = KINDS[self.kind](self.network, dtype)
        _check_network(network, unet, self.network.name)
        pictures = rearrange(control_pictures(self.pictures, selection), "f h w c -> f c h w")
        return Control(network.to(device), pictures.to(device), self.strength, self.start, self.end)


def choices(controls: Sequence[str], pictures: Sequence[Path]) -> tuple[ControlChoice, ...]:
    """Puts the first control to the first pictures, and so on; TavError where there are more of one."""
    if len(controls) != len(pictures):
        raise TavError(
            f"Got {len(controls)} --control and {len(pictures)} --control-pictures; give each control its pictures, in "
            "the same order."
        )
    return tuple(map(ControlChoice.parse, controls, pictures))


def control_pictures(path: Path, selection: Selection) -> Tensor:
    """The pictures for the frames of a selection, (f, h, w, 3) or (1, h, w, 3) in 0..1.

    There is one for each chosen frame, one for each of the clip's own frames, of which the same are chosen, or one for
    all. Those shaped as the clip are fitted as it is; those shaped as the chosen frames are scaled to them.
    """
    source, clip = _opened(path), _opened(selection.clip)
    chosen = _chosen(source.num_frames, clip.num_frames, selection, path.name)
    width, height = selection.width_and_height
    ((full_height, full_width, _),) = (picture.shape for picture in clip.pictures([0]))
    pictures = []
    for picture in source.pictures(chosen):
        if _same_shape(picture, full_width, full_height):
            fit = selection.fit
        elif _same_shape(picture, width, height):
            fit = "stretch"
        else:
            raise TavError(
                f"{path.name} is {picture.shape[1]}x{picture.shape[0]}, while the clip is {full_width}x{full_height} "
                f"and is taken at {width}x{height}: make control pictures of one of these shapes."
            )
        pictures.append(fitted(picture, width, height, fit))
    return torch.from_numpy(np.stack(pictures)).float() / 255


def _opened(path: Path) -> VideoFile | ImageFolder:
    if not path.exists():
        raise TavError(f"There is no file or folder {path}; check the path of the clip and of its control pictures.")
    return ImageFolder(path) if path.is_dir() else VideoFile(path)


def _chosen(count: int, of_clip: int, selection: Selection, name: str) -> list[int]:
    if count in (1, selection.frames):
        return list(range(count))
    if count == of_clip:
        return select_frames(of_clip, selection.frames, selection.start, selection.stride)
    raise TavError(
        f"{name} holds {count} control pictures, while {selection.frames} of the clip's {of_clip} frames are taken: "
        "give one for each of either, or one for all."
    )


def _same_shape(picture: np.ndarray, width: int, height: int) -> bool:
    """Whether the aspect is the same, but for rounding to whole pixels."""
    return abs(picture.shape[1] * height - picture.shape[0] * width) <= max(width, height)


def _check_network(network, unet: UNet2DConditionModel, name: str) -> None:
    family = family_of_config(unet.config, "The checkpoint")
    adapter = isinstance(network, T2IAdapter)
    if not adapter:
        check_addition(WIDTHS.get(network.config.cross_attention_dim), family, name, "ControlNet")
    theirs = list(network.config["channels" if adapter else "block_out_channels"])
    ours = list(unet.config.block_out_channels)
    if theirs[: len(ours)] != ours:
        raise TavError(
            f"{name} works on {theirs} channels, and the checkpoint, {NAMES[family]}, on {ours}: choose one that was "
            "made for it."
        )
