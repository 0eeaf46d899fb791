"""What inverted noise still shows of its clip: for each way to invert, on the clips that reports use, without tuning.

    python benchmarks/inversion_trace.py --clips 4

Per way: the noise's standard deviation, which is 1 for white noise; the correlation of neighbouring latents in it, in
space and between frames, which is 0; its correlation with the clip's latents; and how well the clip is reconstructed.
A minute a clip on one CPU core.
"""

import argparse

import torch
from torch import Tensor

from tav_core.ddim import invert, sample
from tav_core.demo.miniature import miniature_path
from tav_core.demo.settings import SETTINGS
from tav_core.evaluation.report import table
from tav_core.evaluation.sampling import encode, inflated
from tav_core.evaluation.variants import Network
from tav_core.jobs.base import open_base
from tav_core.prediction import NoisePredictor
from tav_core.steps import INVERSIONS
from tav_core.world.protocol import clips_to_report

WAYS = {"20 steps": (20, "ddim"), "50 steps": (50, "ddim"), "20 steps, fixed point": (20, "fixed-point")}
COLUMNS = ["inversion", "deviation", "correlation in space", "between frames", "with the clip", "reconstruction error"]


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's, of two tensors of one shape."""
    return torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].item()


def measured(noise: Tensor, clean: Tensor, again: Tensor) -> list[float]:
    """The figures of inverted noise, of the clip's latents and of those sampled back, all (1, c, f, h, w)."""
    beside = correlation(noise[..., 1:], noise[..., :-1]), correlation(noise[..., 1:, :], noise[..., :-1, :])
    frames = correlation(noise[:, :, 1:], noise[:, :, :-1])
    error = (again - clean).square().mean() / clean.var()
    return [noise.std().item(), sum(beside) / 2, frames, correlation(noise, clean), error.item()]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=12)
    options = parser.parse_args()
    checkpoint = open_base(miniature_path(), device=torch.device("cpu")).checkpoint
    unet, found = inflated(checkpoint, Network(), SETTINGS), {way: [] for way in WAYS}
    for clip in clips_to_report()[: options.clips]:
        encoded = encode(checkpoint, clip, SETTINGS.frames)
        predict = NoisePredictor(unet, encoded.empty, checkpoint.scheduler)
        for way, (steps, method) in WAYS.items():
            noise = invert(predict, encoded.latents, checkpoint.scheduler, steps, refinements=INVERSIONS[method])[-1]
            again = sample(predict, noise, checkpoint.scheduler, steps)
            found[way].append(measured(noise, encoded.latents, again))
    means = {way: torch.tensor(rows).mean(dim=0).tolist() for way, rows in found.items()}
    print(table(COLUMNS, [[way, *(f"{value:.3f}" for value in row)] for way, row in means.items()]))


if __name__ == "__main__":
    main()
