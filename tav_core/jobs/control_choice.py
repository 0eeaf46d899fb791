"""A control as given in the shell: the file of a network, its control images, a strength and a range of steps."""

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
from ..errors import TavError, shown
from ..families import NAMES, WIDTHS, check_addition, family_of_config
from ..video.choose import choose_frames
from ..video.frames import fitted
from ..video.source import FrameSource, frames_of, open_source
from .selection import Selection

KINDS = {"controlnet": open_controlnet, "t2i-adapter": open_t2i_adapter}
FORM = "TYPE:PATH[:STRENGTH[:START:END]]"


@dataclass(frozen=True)
class ControlChoice:
    """A control that has not been opened yet.

    kind: one of KINDS. network: a file or a diffusers folder. pictures: its control images, as a clip, a folder or a
        single image. strength, start, end: as in `Control`.
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
    def parse(cls, text: str, images: str | os.PathLike) -> "ControlChoice":
        """Parses TYPE:PATH[:STRENGTH[:START:END]], as given in the shell."""
        match = re.fullmatch(rf"({'|'.join(KINDS)}):(.+?)(?::({NUMBER})(?::({NUMBER}):({NUMBER}))?)?", text)
        if not match or re.search(rf":{NUMBER}$", match[2]):
            raise TavError(f"Cannot parse the control {shown(text)}; give {FORM}, where TYPE is {' or '.join(KINDS)}.")
        kind, network, *numbers = match.groups()
        return cls(kind, Path(network), Path(images), *(float(number) for number in numbers if number is not None))

    def as_metadata(self) -> dict:
        """Its fields as JSON holds them, with file names instead of paths."""
        return {
            "kind": self.kind,
            "network": self.network.name,
            "pictures": self.pictures.name,
            "strength": self.strength,
            "start": self.start,
            "end": self.end,
        }

    def open(
        self,
        selection: Selection,
        unet: UNet2DConditionModel,
        device: torch.device,
        dtype: torch.dtype,
        notes: list[str],
    ) -> Control:
        """Opens the network, and its images for the frames of a selection; TavError if either does not fit.

        notes: takes warnings about the images.
        """
        network = KINDS[self.kind](self.network, dtype)
        _check_network(network, unet, self.network.name)
        images = rearrange(control_images(self.pictures, selection, notes), "f h w c -> f c h w")
        return Control(network.to(device), images.to(device), self.strength, self.start, self.end)


def choices(controls: Sequence[str], images: Sequence[Path]) -> tuple[ControlChoice, ...]:
    """Pairs the controls with their images, in order; TavError if there are more of one than of the other."""
    if len(controls) != len(images):
        raise TavError(
            f"Got {len(controls)} --control and {len(images)} --control-pictures; give one --control-pictures for each "
            "--control, in the same order."
        )
    return tuple(map(ControlChoice.parse, controls, images))


def control_images(path: Path, selection: Selection, notes: list[str]) -> Tensor:
    """The control images for the frames of a selection, uint8 (f, h, w, 3) or (1, h, w, 3).

    `path` holds one per selected frame, one per frame of the clip (the same ones are selected), or one for all frames.
    Images with the clip's aspect ratio are cropped, padded or stretched as it is; those with the selection's aspect
    ratio are scaled. notes: takes warnings about the images.
    """
    source, clip = _opened(path), _opened(selection.clip)
    chosen = _chosen(source.num_frames, clip.moments, selection, path.name)
    width, height = selection.width_and_height
    ((full_height, full_width, _),) = (frame.shape for frame in clip.frames([0]))
    images = []
    for image in frames_of(source, chosen):
        if _same_aspect(image, full_width, full_height):
            fit = selection.fit
        elif _same_aspect(image, width, height):
            fit = "stretch"
        else:
            raise TavError(
                f"{path.name} is {image.shape[1]}x{image.shape[0]}, but the clip is {full_width}x{full_height}, "
                f"used at {width}x{height}; control images need the aspect ratio of either."
            )
        images.append(fitted(image, width, height, fit))
    notes += [note for note in source.notes if note not in notes]
    return torch.from_numpy(np.stack(images))


def _opened(path: Path) -> FrameSource:
    if not path.exists():
        raise TavError(f"There is no file or folder {path}; check the paths of clip, control images and mask.")
    return open_source(path)


def _chosen(count: int, moments: Sequence[float | None], selection: Selection, name: str) -> list[int]:
    """By the clip's moments, for the images of a clip whose frame rate varies may well be at an even pace."""
    if count in (1, selection.frames):
        return list(range(count))
    if count == len(moments):
        how = selection.start, selection.stride
        return choose_frames(moments, selection.frames, *how, by_time=selection.by_time)[0]
    raise TavError(
        f"{name} holds {count} control images, but {selection.frames} of the clip's {len(moments)} frames are used; "
        "give one per used frame, one per frame of the clip, or one for all."
    )


def _same_aspect(image: np.ndarray, width: int, height: int) -> bool:
    """Whether the aspect ratio is the same, up to rounding to whole pixels."""
    return abs(image.shape[1] * height - image.shape[0] * width) <= max(width, height)


def _check_network(network, unet: UNet2DConditionModel, name: str) -> None:
    family = family_of_config(unet.config, "The checkpoint")
    adapter = isinstance(network, T2IAdapter)
    if not adapter:
        check_addition(WIDTHS.get(network.config.cross_attention_dim), family, name, "ControlNet")
    theirs = list(network.config["channels" if adapter else "block_out_channels"])
    ours = list(unet.config.block_out_channels)
    if theirs[: len(ours)] != ours:
        raise TavError(
            f"{name} has {theirs} channels, but the checkpoint ({NAMES[family]}) has {ours}; choose one made for it."
        )
