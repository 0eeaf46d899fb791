"""Judges an edited video by the ideal: what the world's own drawing shows for the edit, known exactly.

Every figure has a right value that it reaches only if the edit is what the world would have drawn. Distances are in
pixels of the 128 x 128 frames. Things that leave the frame, or pass behind others, are judged by what is visible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from ..metrics import peak_signal_to_noise, spread, trajectory_correlation, warp_error
from ..video.pixels import to_uint8
from .clips import Clip
from .draw import Truth, centre_of, draw_clip, flow, truth
from .readers import SMALLEST, Reading, Seen, read_image
from .scene import COLOURS, SIZE, Scene

# What each kind of edit changes; everything else should stay as it is.
CHANGES = {"object": ("colour", "kind"), "background": ("ground",), "attribute": ("colour",), "style": ("style",)}
CLEAR = 0.9  # the visible share of a thing from which its kind and action can be read
LOST = SIZE / 2  # the centre's error where a thing is missing
VISIBLE = 2 * SMALLEST  # pixels of a thing that cannot be overlooked; where fewer show, a frame is not judged by it
MARGIN = 4  # pixels around things that do not count as background


@dataclass(frozen=True)
class Edit:
    """An edit of a clip. target: the clip with the edit made, which is the ideal. number: of the thing it is about.

    kind: of CHANGES; "attribute" and "object" change that thing, "background" and "style" everything around it.
    """

    kind: str
    source: Clip
    target: Clip
    number: int = 0

    @property
    def prompt(self) -> str:
        return self.target.scene.caption

    def ideal(self, num_frames: int) -> Tensor:
        """The ideal video, (f, 128, 128, 3) in 0..1."""
        return torch.from_numpy(draw_clip(self.target.scenes(num_frames))).float() / 255


@dataclass(frozen=True, eq=False)
class Judge:
    """Judges videos of one edit, at one number of frames."""

    edit: Edit
    num_frames: int

    def figures(self, frames: Tensor) -> dict[str, float]:
        """All figures of a video (f, 128, 128, 3) in 0..1; those that the edit does not define are left out."""
        pixels = to_uint8(frames)
        readings = [read_image(image) for image in pixels]
        mine, other = self._split([reading.labels for reading in readings])
        return {
            **self._attributes(readings),
            **self._outline(mine),
            **self._motion(mine, pixels),
            **self._kept(frames, other),
            **self._comparable(mine, frames),
        }

    @cached_property
    def scenes(self) -> list[Scene]:
        return self.edit.target.scenes(self.num_frames)

    @cached_property
    def truths(self) -> list[Truth]:
        return [truth(scene) for scene in self.scenes]

    @cached_property
    def ideal(self) -> Tensor:
        return self.edit.ideal(self.num_frames)

    @cached_property
    def _flows(self) -> list[np.ndarray]:
        return [flow(*pair) for pair in pairwise(self.scenes)]

    @property
    def _others(self) -> list[int]:
        return [number for number in range(len(self.scenes[0].things)) if number != self.edit.number]

    def _masks(self, number: int) -> np.ndarray:
        return np.stack([one.masks[number] for one in self.truths])

    def _split(self, labels: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Masks (f, 128, 128) of the edited thing, whatever its colour, and of the other one, by its colour."""
        colours = list(COLOURS)
        others = [1 + colours.index(self.scenes[0].things[number].colour) for number in self._others]
        other = np.stack([np.isin(label, others) for label in labels])
        return np.stack(labels).astype(bool) & ~other, other

    # Does it show what the prompt says?

    def _attributes(self, readings: Sequence[Reading]) -> dict[str, float]:
        changed, right, kept = CHANGES[self.edit.kind], [], []
        for reading, scene, one in zip(readings, self.scenes, self.truths, strict=True):
            for name in ("ground", "style"):
                (right if name in changed else kept).append(getattr(reading, name) == getattr(scene, name))
            for number, thing in enumerate(scene.things):
                if one.masks[number].sum() < VISIBLE:
                    continue
                names = ("colour", "kind", "action") if one.shares[number] >= CLEAR else ("colour",)
                seen = self._seen(reading, number)
                for name in names:
                    is_right = seen is not None and (getattr(seen, name) or "") == getattr(thing, name)
                    about_it = number == self.edit.number and name in changed
                    (right if about_it else kept).append(is_right)
        return {"edit_right": float(np.mean(right)), "rest_kept": float(np.mean(kept))}

    def _seen(self, reading: Reading, number: int) -> Seen | None:
        """The reading's thing for one of the scene's: by colour, or else the largest that is not another one's."""
        colours = [thing.colour for thing in self.scenes[0].things]
        unclaimed = [seen for seen in reading.things if seen.colour not in colours]
        return reading.thing(colours[number]) or next(iter(unclaimed), None)

    # Is it where it should be, as large and as shaped as it should be?

    def _outline(self, mine: np.ndarray) -> dict[str, float]:
        ideal = self._masks(self.edit.number)
        visible, gone = self._visible(self.edit.number), ~ideal.any(axis=(1, 2))
        overlaps = [_overlap(*pair) for pair in zip(mine[visible], ideal[visible], strict=True)]
        overlaps += [float(mask.sum() < SMALLEST) for mask in mine[gone]]  # what has left must not be seen
        ratios = np.sqrt(mine.sum(axis=(1, 2))[visible] / ideal.sum(axis=(1, 2))[visible])
        steps = np.diff(np.log(np.clip(ratios, 0.05, None))) if len(ratios) > 1 else np.zeros(1)
        return {
            "iou": float(np.mean(overlaps)),
            "worst_iou": float(np.min(overlaps)),
            "size_ratio": float(np.mean(ratios)),
            "size_jump": float(np.expm1(np.abs(steps).max())),
        }

    def _visible(self, number: int) -> np.ndarray:
        """The frames (f,) in which one of the things cannot be overlooked."""
        return self._masks(number).sum(axis=(1, 2)) >= VISIBLE

    def _motion(self, mine: np.ndarray, pixels: np.ndarray) -> dict[str, float]:
        wanted = [one.centres[self.edit.number] for one in self.truths]
        frames = np.flatnonzero(self._visible(self.edit.number)).tolist()
        drifts = {  # from where it should be, in pixels; not a number where it is missing
            n: SIZE * np.subtract(centre_of(mine[n]), wanted[n]) if mine[n].sum() >= SMALLEST else np.full(2, np.nan)
            for n in frames
        }
        errors = [_length(drift) for drift in drifts.values()]
        shakes = [_length(drifts[n + 1] - drifts[n]) for n in frames if n + 1 in drifts]
        return {
            "centre_error": float(np.mean(errors)),
            "largest_centre_error": float(np.max(errors)),
            "jitter": float(np.mean(shakes)) if shakes else 0.0,
            **self._flow_errors(pixels),
        }

    def _flow_errors(self, pixels: np.ndarray) -> dict[str, float]:
        """The mean end-point errors of the video's flow, as OpenCV's DIS sees it, on things and on the ground."""
        seeker = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        # enlarged, because DIS follows motion of a few of its patches only
        greys = [cv2.cvtColor(cv2.resize(image, None, fx=2, fy=2), cv2.COLOR_RGB2GRAY) for image in pixels]
        errors: dict[str, list[float]] = {"flow_error": [], "ground_flow_error": []}
        for pair, right, one in zip(pairwise(greys), self._flows, self.truths, strict=False):
            seen = cv2.resize(seeker.calc(*pair, None), (SIZE, SIZE), interpolation=cv2.INTER_AREA) / 2
            error, things = np.linalg.norm(seen - right, axis=2), one.masks.any(axis=0)
            for values, where in zip(errors.values(), (things, ~things), strict=True):
                values += [error[where].mean()] if where.any() else []
        return {name: float(np.mean(values)) for name, values in errors.items() if values}

    # Does everything else stay?

    def _kept(self, frames: Tensor, other: np.ndarray) -> dict[str, float]:
        result = {}
        if self._others:
            ideal = self._masks(self._others[0])
            there = ideal.sum(axis=(1, 2)) >= SMALLEST
            pairs = zip(other, ideal, there, strict=True)
            result["other_iou"] = float(
                np.mean([_overlap(seen, wanted) for seen, wanted, is_there in pairs if is_there])
            )
            result["other_psnr"] = peak_signal_to_noise(frames, self.ideal, torch.from_numpy(ideal))
        if self.edit.kind in ("object", "attribute"):
            result["background_psnr"] = peak_signal_to_noise(frames, self.ideal, torch.from_numpy(self._background))
        return result

    @cached_property
    def _background(self) -> np.ndarray:
        """The pixels (f, 128, 128) beyond MARGIN of all things, of the source and of the ideal."""
        source = [truth(scene) for scene in self.edit.source.scenes(self.num_frames)]
        covered = [(a.masks.any(0) | b.masks.any(0)).astype(np.uint8) for a, b in zip(source, self.truths, strict=True)]
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * MARGIN + 1,) * 2)
        return np.stack([cv2.dilate(mask, disc) == 0 for mask in covered])

    # The figures of the literature, for comparison: a fake can be good at them

    def _comparable(self, mine: np.ndarray, frames: Tensor) -> dict[str, float]:
        path = [centre_of(mask) if mask.sum() >= SMALLEST else None for mask in mine]
        wanted = [one.centres[self.edit.number] for one in self.truths]
        sizes = [float(np.sqrt(mask.sum())) for mask in mine]
        return {
            "trajectory_correlation": trajectory_correlation(path, wanted),
            "size_spread": spread(sizes),
            "warp_error": warp_error(frames),
        }


def _length(drift: np.ndarray) -> float:
    return LOST if np.isnan(drift).any() else float(np.linalg.norm(drift))


def _overlap(seen: np.ndarray, wanted: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((seen & wanted).sum() / max((seen | wanted).sum(), 1))
