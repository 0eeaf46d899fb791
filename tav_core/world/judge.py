"""Judges an edited video by the ideal: what the world's own drawing shows for the edit, known exactly.

Distances are in pixels of the 128 x 128 frames. A thing is judged by its visible part, in the frames in which enough of
it shows. The figures of one group miss what another catches: a frozen figure has the right place, but not the right
poses; a halo leaves masks as they are, but not the pixels around them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import TavError
from ..metrics import peak_signal_to_noise, spread, trajectory_correlation, warp_error
from ..video.pixels import to_uint8
from .clips import Clip
from .draw import Truth, centre_of, draw_clip, flow, truth
from .readers import SMALLEST, Reading, Seen, lab, read_image
from .scene import COLOURS, SIZE, Scene

# What each kind of edit changes; everything else should stay as it is.
CHANGES = {"object": ("colour", "kind"), "background": ("ground",), "attribute": ("colour",), "style": ("style",)}
CLEAR = 0.9  # the visible share of a thing from which its kind, its action and its pose can be read
VISIBLE = 2 * SMALLEST  # pixels of a thing that cannot be overlooked; where fewer show, a frame is not judged by it
LOST = SIZE / 2  # the largest error of a centre, also where the thing is missing
GONE = 0.05  # the size ratio of a thing that is missing
MARGIN = 4  # pixels around things that do not count as background
FOLLOWED = 1.0  # pixels: where DIS misses the ideal's own motion by more, it cannot judge a video's
STANDS_STILL = 2 / SIZE  # the standard deviation of centres below which a path's correlation is noise
GROUND_BLUR = 6.0  # the deviation of the blur, in pixels, under which two grounds of one name look alike


@dataclass(frozen=True)
class Edit:
    """An edit of a clip. target: the clip with the edit made, which is the ideal. number: of the thing it is about.

    kind: one of CHANGES. "attribute" and "object" change that thing, "background" and "style" everything around it.
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
        """All figures of a video (f, 128, 128, 3) in 0..1; those that the edit does not define are left out.

        Raises TavError if the video has another shape, or if the edited thing is never visible.
        """
        if frames.shape != self.ideal.shape:
            raise TavError(
                f"Expected frames {tuple(self.ideal.shape)}, got {tuple(frames.shape)}; pass all frames of the edit, "
                f"at {SIZE}x{SIZE}."
            )
        if not self._visible(self.edit.number).any():
            raise TavError(f"The edited thing is not visible in any frame of {self.edit.prompt!r}.")
        pixels = to_uint8(frames)
        readings = [read_image(image) for image in pixels]
        seen, other = self._edited_and_other([reading.labels for reading in readings])
        return {
            **self._attributes(readings),
            **self._outline(seen),
            **self._pose(seen),
            **self._place(seen),
            **self._motion(pixels),
            **self._kept(frames, other),
            **self._for_comparison(seen, frames),
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

    @property
    def _other(self) -> int | None:
        """The number of the thing that is not edited, if there is one."""
        return next((number for number in range(len(self.scenes[0].things)) if number != self.edit.number), None)

    def _masks(self, number: int) -> np.ndarray:
        return np.stack([one.masks[number] for one in self.truths])

    def _visible(self, number: int) -> np.ndarray:
        """The frames (f,) in which one of the things cannot be overlooked."""
        return self._masks(number).sum(axis=(1, 2)) >= VISIBLE

    def _edited_and_other(self, labels: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Masks (f, 128, 128) of the edited thing, whatever its colour, and of the other one, by its colour."""
        labels = np.stack(labels)
        if self._other is None:
            return labels > 0, np.zeros(labels.shape, bool)
        other = labels == 1 + list(COLOURS).index(self.scenes[0].things[self._other].colour)
        return (labels > 0) & ~other, other

    # Does it show what the prompt says, and nothing else?

    def _attributes(self, readings: Sequence[Reading]) -> dict[str, float]:
        changed, right, kept = CHANGES[self.edit.kind], [], []
        for reading, scene, one in zip(readings, self.scenes, self.truths, strict=True):
            for name in ("ground", "style"):
                (right if name in changed else kept).append(getattr(reading, name) == getattr(scene, name))
            kept.append(len(reading.things) <= sum(mask.any() for mask in one.masks))
            for number, thing in enumerate(scene.things):
                if one.masks[number].sum() < VISIBLE:
                    continue
                names = ("colour", "kind", "action") if one.shares[number] >= CLEAR else ("colour",)
                seen = self._seen(reading, number)
                for name in names:
                    is_right = seen is not None and (getattr(seen, name) or "") == getattr(thing, name)
                    is_edited = number == self.edit.number and name in changed
                    (right if is_edited else kept).append(is_right)
        return {"edit_right": float(np.mean(right)), "rest_kept": float(np.mean(kept))}

    def _seen(self, reading: Reading, number: int) -> Seen | None:
        """The reading's thing for one of the scene's: by colour, or else the largest that is not another one's."""
        colours = [thing.colour for thing in self.scenes[0].things]
        unclaimed = [seen for seen in reading.things if seen.colour not in colours]
        return reading.thing(colours[number]) or next(iter(unclaimed), None)

    # Place, size, shape and pose

    def _outline(self, seen: np.ndarray) -> dict[str, float]:
        """size_jump: by how much the size ratio changes from one frame to the next, as a share of it, at most."""
        ideal = self._masks(self.edit.number)
        visible, gone = self._visible(self.edit.number), ~ideal.any(axis=(1, 2))
        overlaps = [_overlap(*pair) for pair in zip(seen[visible], ideal[visible], strict=True)]
        overlaps += [float(mask.sum() < SMALLEST) for mask in seen[gone]]  # what has left must not be seen
        ratios = np.sqrt(seen[visible].sum(axis=(1, 2)) / ideal[visible].sum(axis=(1, 2)))
        logs = np.log(np.clip(ratios, GONE, None))
        is_missing = (seen[visible].sum(axis=(1, 2)) < SMALLEST).any()
        jump = -np.log(GONE) if is_missing else np.abs(np.diff(logs)).max(initial=0)
        return {
            "iou": float(np.mean(overlaps)),
            "worst_iou": float(np.min(overlaps)),
            "size_ratio": float(np.mean(ratios)),
            "size_error": float(np.expm1(np.abs(logs).mean())),
            "size_jump": float(np.expm1(jump)),
        }

    def _pose(self, seen: np.ndarray) -> dict[str, float]:
        """The overlap of a figure's limbs, where its silhouette changes in the ideal, with both masks centred."""
        number = self.edit.number
        frames = [frame for frame, one in enumerate(self.truths) if one.shares[number] >= CLEAR]
        if not (self.scenes[0].things[number].is_figure and frames):
            return {}
        ideal, ours = (np.stack([_centred(masks[f]) for f in frames]) for masks in (self._masks(number), seen))
        moving = ideal.any(axis=0) & ~ideal.all(axis=0)
        return {
            "pose_iou": float(np.mean([_overlap(a & moving, b & moving) for a, b in zip(ours, ideal, strict=True)]))
        }

    def _place(self, seen: np.ndarray) -> dict[str, float]:
        frames = np.flatnonzero(self._visible(self.edit.number)).tolist()
        drifts = {}  # from where it should be, in pixels; not a number where it is missing
        for n in frames:
            wanted, found = self.truths[n].centres[self.edit.number], _found(seen[n])
            drifts[n] = np.full(2, np.nan) if found is None else SIZE * np.subtract(found, wanted)
        errors = [_length(drift) for drift in drifts.values()]
        shakes = [_length(drifts[n + 1] - drifts[n]) for n in frames if n + 1 in drifts]
        return {
            "centre_error": float(np.mean(errors)),
            "largest_centre_error": float(np.max(errors)),
            "jitter": float(np.mean(shakes)) if shakes else 0.0,
        }

    # Motion

    def _motion(self, pixels: np.ndarray) -> dict[str, float]:
        """The mean end-point errors of the video's flow on things and on the ground, where DIS follows the ideal's."""
        on_things, on_ground = [], []
        for found, right, where, one in zip(_flows(pixels), self._flows, self._followed, self.truths, strict=False):
            error, things = np.linalg.norm(found - right, axis=2), one.masks.any(axis=0)
            for errors, region in ((on_things, things & where), (on_ground, ~things & where)):
                if region.sum() >= SMALLEST:
                    errors.append(error[region].mean())
        named = {"flow_error": on_things, "ground_flow_error": on_ground}
        return {name: float(np.mean(errors)) for name, errors in named.items() if errors}

    @cached_property
    def _flows(self) -> list[np.ndarray]:
        return [flow(*pair) for pair in pairwise(self.scenes)]

    @cached_property
    def _followed(self) -> list[np.ndarray]:
        """Where (128, 128) DIS finds the true flow in the ideal, for each pair of frames."""
        pairs = zip(_flows(to_uint8(self.ideal)), self._flows, strict=True)
        return [np.linalg.norm(found - right, axis=2) < FOLLOWED for found, right in pairs]

    # Pixels

    def _kept(self, frames: Tensor, other: np.ndarray) -> dict[str, float]:
        def psnr(where: np.ndarray) -> float:
            return peak_signal_to_noise(frames, self.ideal, torch.from_numpy(where))

        result = {"object_psnr": psnr(self._masks(self.edit.number))}
        if self._other is not None and (visible := self._visible(self._other)).any():
            ideal = self._masks(self._other)
            overlaps = [_overlap(*pair) for pair in zip(other[visible], ideal[visible], strict=True)]
            result |= {"other_iou": float(np.mean(overlaps)), "other_psnr": psnr(ideal)}
        if self.edit.kind == "background":  # of which only the colours are known: its texture is the network's choice
            result["ground_colour_error"] = self._ground_colour_error(frames)
        else:
            result["background_psnr"] = psnr(self._background)
        if self.edit.kind in ("object", "attribute"):
            things = np.stack([one.masks.any(axis=0) for one in self.truths])
            result["rim_psnr"] = psnr(~self._background & ~things)
        return result

    @cached_property
    def _background(self) -> np.ndarray:
        """The pixels (f, 128, 128) beyond MARGIN of all things, of the source and of the ideal."""
        source = [truth(scene) for scene in self.edit.source.scenes(self.num_frames)]
        covered = [(a.masks.any(0) | b.masks.any(0)).astype(np.uint8) for a, b in zip(source, self.truths, strict=True)]
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * MARGIN + 1,) * 2)
        return np.stack([cv2.dilate(mask, disc) == 0 for mask in covered])

    def _ground_colour_error(self, frames: Tensor) -> float:
        """The mean distance in CIE L*a*b* of the blurred background from the ideal's."""
        errors = []
        for image, ideal, where in zip(frames.numpy(), self.ideal.numpy(), self._background, strict=True):
            ours, right = (lab(_blurred_within(each, where)) for each in (image, ideal))
            errors.append(np.linalg.norm(ours - right, axis=2)[where].mean())
        return float(np.mean(errors))

    # The figures of the literature, for comparison: a fake can be good at them

    def _for_comparison(self, seen: np.ndarray, frames: Tensor) -> dict[str, float]:
        wanted = [one.centres[self.edit.number] for one in self.truths]
        known = np.array([centre for centre in wanted if centre is not None])
        result = {
            "size_spread": spread([float(np.sqrt(mask.sum())) for mask in seen]),
            "warp_error": warp_error(frames),
        }
        if known.std(axis=0).max() > STANDS_STILL:
            result["trajectory_correlation"] = trajectory_correlation([_found(mask) for mask in seen], wanted)
        return result


def _found(mask: np.ndarray) -> tuple[float, float] | None:
    return centre_of(mask) if mask.sum() >= SMALLEST else None


def _centred(mask: np.ndarray) -> np.ndarray:
    """A mask moved by whole pixels, so that its centroid is in the middle."""
    centre = centre_of(mask)
    return mask if centre is None else np.roll(mask, [round(SIZE * (0.5 - c)) for c in reversed(centre)], (0, 1))


def _flows(pixels: np.ndarray) -> list[np.ndarray]:
    """The optical flow (128, 128, 2) between neighbouring frames, in pixels, by OpenCV's DIS (Kroeger et al. 2016)."""
    seeker = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # enlarged, because DIS follows motion of a few of its patches only
    greys = [cv2.cvtColor(cv2.resize(image, None, fx=2, fy=2), cv2.COLOR_RGB2GRAY) for image in pixels]
    found = [seeker.calc(*pair, None) for pair in pairwise(greys)]
    return [cv2.resize(each, (SIZE, SIZE), interpolation=cv2.INTER_AREA) / 2 for each in found]


def _blurred_within(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    """An image blurred by GROUND_BLUR, of the pixels in a region alone."""
    weights = where.astype(np.float32)
    total = np.maximum(cv2.GaussianBlur(weights, (0, 0), GROUND_BLUR), 1e-3)
    return cv2.GaussianBlur(image * weights[..., None], (0, 0), GROUND_BLUR) / total[..., None]


def _length(drift: np.ndarray) -> float:
    return LOST if np.isnan(drift).any() else min(float(np.linalg.norm(drift)), LOST)


def _overlap(seen: np.ndarray, wanted: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((seen & wanted).sum() / max((seen | wanted).sum(), 1))
