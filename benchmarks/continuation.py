"""How near the guess by optical flow of what follows comes on filmed clips.

    python benchmarks/continuation.py CLIP...

Of each clip, eight frames from three starts are continued by eight. PSNR of the first, second, fourth and eighth new
frame, less that of the last known frame again.
"""

import argparse

import numpy as np
import torch

from tav_core import read_frames
from tav_core.metrics import peak_signal_to_noise
from tav_core.video.continuation import continued_by_flow

STARTS, FRAMES, REPORTED = (4, 16, 28), 8, (0, 1, 3, 7)


def gains(frames: torch.Tensor) -> list[float]:
    known, hidden = frames[:FRAMES], frames[FRAMES:]
    made = torch.stack(list(continued_by_flow(known, FRAMES, "onwards")))
    return [
        peak_signal_to_noise(made[[at]], hidden[[at]]) - peak_signal_to_noise(known[-1:], hidden[[at]])
        for at in REPORTED
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", metavar="CLIP")
    parser.add_argument("--size", type=int, default=192)
    options = parser.parse_args()
    means = []
    for clip in options.clips:
        found = [
            gains(read_frames(clip, 2 * FRAMES, size=options.size, stride=1, start=start).frames) for start in STARTS
        ]
        means.append(np.mean(found, axis=0))
        print(clip, np.round(means[-1], 1))
    print("mean", np.round(np.mean(means, axis=0), 1))


if __name__ == "__main__":
    main()
