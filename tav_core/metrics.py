"""Video metrics: similarity to the source, temporal consistency, motion, and the CLIP scores of the paper's Table 1.

Frames are (f, h, w, 3) float in 0..1. A trajectory is a centre (x, y) for each frame, None where nothing was found.
"""

import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from .errors import TavError, shown
from .video.pixels import to_uint8

Trajectory = Sequence[tuple[float, float] | None]


# Similarity to the source


def peak_signal_to_noise(frames: Tensor, source: Tensor, where: Tensor | None = None) -> float:
    """PSNR of frames against their source over all pixels of the video, in dB; 100 at most.

    where: (f, h, w) bool, the pixels that count; by default all.
    """
    error = (frames - source).square()
    return decibels((error if where is None else error[where]).mean().item())


def decibels(mean_squared_error: float) -> float:
    """The PSNR in dB that belongs to a mean squared error of values in 0..1; 100 at most."""
    return -10 * math.log10(max(mean_squared_error, 1e-10))


def structural_similarity(frames: Tensor, source: Tensor) -> float:
    """Mean SSIM (Wang et al. 2004) of frames against their source, over channels and all windows inside a frame.

    Windows are Gaussians of 11 x 11 pixels and standard deviation 1.5, constants 0.01 and 0.03, as in the paper.
    """
    return float(np.mean([_ssim(*pair) for pair in zip(_arrays(frames), _arrays(source), strict=True)]))


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    if min(x.shape[:2]) < 11:
        raise TavError(f"SSIM needs frames of at least 11x11 pixels, got {x.shape[1]}x{x.shape[0]}.")

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), 1.5)[5:-5, 5:-5]

    x, y = x.astype(np.float64), y.astype(np.float64)  # float64, because variances are differences of squares
    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean().item()


# Temporal consistency


def spread(values: Sequence[float]) -> float:
    """The standard deviation, relative to the mean, of what should be constant over frames; 1 if the mean is 0."""
    mean = np.mean(values)
    return float(np.std(values) / mean) if mean > 0 else 1.0


def warp_error(frames: Tensor) -> float:
    """Mean squared difference between each frame and the next one warped back onto it (Lai et al. 2018, section 4.1).

    The flow is OpenCV's DIS (Kroeger et al. 2016) on the video itself. Pixels whose forward and backward flow disagree
    are occluded in one of the two frames and do not count (Sundaram et al. 2010).
    """
    if len(frames) < 2:
        raise TavError("The warp error compares consecutive frames; give a video of at least two.")
    images = _arrays(frames)
    greys = [cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) for pixels in to_uint8(frames)]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    errors = []
    for (image, after), (grey, grey_after) in zip(pairwise(images), pairwise(greys), strict=True):
        forward, backward = flow.calc(grey, grey_after, None), flow.calc(grey_after, grey, None)
        there_and_back = forward + _warped(backward, forward)
        length = np.square(forward).sum(2) + np.square(_warped(backward, forward)).sum(2)
        is_visible = np.square(there_and_back).sum(2) < 0.01 * length + 0.5
        if is_visible.any():
            errors.append(np.square(_warped(after, forward) - image)[is_visible].mean())
    return float(np.mean(errors)) if errors else 1.0


def _warped(values: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The values at the positions to which the flow (h, w, 2) moves each pixel."""
    height, width = flow.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    places = columns + flow[..., 0], rows + flow[..., 1]
    return cv2.remap(values, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


# Motion


def trajectory_correlation(path: Trajectory, source: Trajectory) -> float:
    """Pearson's correlation of two trajectories' coordinates, each relative to its mean; 0 if either stands still.

    Frames without a centre count as being at the mean.
    """
    (ours, _), (theirs, _) = _about_mean(path), _about_mean(source)
    lengths = np.linalg.norm(ours) * np.linalg.norm(theirs)
    return (ours * theirs).sum().item() / lengths.item() if lengths > 1e-9 else 0.0


def centre_error(path: Trajectory, source: Trajectory) -> float:
    """The mean distance of two trajectories, frame by frame, in their own unit.

    Frames without a centre count as being at the mean of the others, or at (0.5, 0.5) if there are none.
    """
    (ours, our_mean), (theirs, their_mean) = _about_mean(path), _about_mean(source)
    return np.linalg.norm(ours + our_mean - theirs - their_mean, axis=1).mean().item()


def _about_mean(path: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """The trajectory (f, 2) relative to its mean, and its mean (2,)."""
    known = [centre for centre in path if centre is not None]
    mean = np.mean(known, axis=0) if known else np.array((0.5, 0.5))
    return np.array([mean if centre is None else centre for centre in path]) - mean, mean


# CLIP


class ClipScores(NamedTuple):
    """Frame consistency, and textual faithfulness to the prompt, both times 100 (Tune-A-Video, Table 1)."""

    frame_consistency: float
    textual_faithfulness: float


class ClipScorer:
    """Scores videos with a CLIP model of transformers, given by a folder or by its name on the Hugging Face hub."""

    def __init__(self, name: str, device: torch.device | str = "cpu"):
        from transformers import CLIPModel, CLIPProcessor  # slow to import

        try:
            model, report = CLIPModel.from_pretrained(name, output_loading_info=True)
            self.processor = CLIPProcessor.from_pretrained(name)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise _not_a_clip_model(name, str(error) or type(error).__name__) from error
        if missing := report["missing_keys"]:  # transformers fills them with random numbers
            raise _not_a_clip_model(name, f"it lacks {len(missing)} tensors, such as {min(missing)}")
        self.model = model.float().to(device).eval()

    @torch.no_grad()
    def score(self, frames: Tensor, prompt: str) -> ClipScores:
        """The mean cosine similarity of all pairs of frames, and of the frames with the prompt."""
        if len(frames) < 2:
            raise TavError("Frame consistency compares frames; give a video of at least two.")
        length = self.model.config.text_config.max_position_embeddings
        inputs = self.processor(
            text=[prompt],
            images=list(to_uint8(frames)),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=length,
        )
        outputs = self.model(**inputs.to(self.model.device))
        images, text = (x / x.norm(dim=-1, keepdim=True) for x in (outputs.image_embeds, outputs.text_embeds))
        pairs = torch.stack([images[i] @ images[j] for i, j in combinations(range(len(images)), 2)])
        return ClipScores(100 * pairs.mean().item(), 100 * (images @ text[0]).mean().item())


def _not_a_clip_model(name: str, reason: str) -> TavError:
    first_line = reason.strip().splitlines()[0]
    return TavError(
        f"The CLIP model {shown(name)} cannot be opened ({first_line}); give a folder with a CLIPModel and its "
        "processor, or its name on the Hugging Face hub, such as openai/clip-vit-large-patch14."
    )


def _arrays(frames: Tensor) -> list[np.ndarray]:
    return list(frames.float().clamp(0, 1).cpu().numpy())
