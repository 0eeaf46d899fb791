"""How near the guess by optical flow of what follows comes, without a network.

    python benchmarks/continuation.py CLIP...
    python benchmarks/continuation.py --drawn 9 10 11 12 --plans line arc walk circle two

Of each filmed clip, eight frames from three starts are continued by eight: PSNR of the first, second, fourth and eighth
new frame, less that of the last known frame again.

Of the drawn world's further clips, as the miniature's VAE decodes them, eight frames are continued by eight, onwards
and backwards: the correlation of the first thing's centres with the true ones, the share of frames in which its colour
and kind are read, and how far off it is in the last one, in % of the width. Settings were chosen by 2 to 4 and 15 to
17; 5 to 8 and 10 were looked at.
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from tav_core import load_checkpoint, read_frames
from tav_core.demo.miniature import miniature_path
from tav_core.metrics import peak_signal_to_noise, trajectory_correlation
from tav_core.video.continuation import continued_by_flow
from tav_core.video.pixels import to_uint8
from tav_core.world.draw import draw_clip, truth
from tav_core.world.protocol import PLANS, WorldClip, further_clips
from tav_core.world.readers import read_image

STARTS, FRAMES, REPORTED = (4, 16, 28), 8, (0, 1, 3, 7)


def gains(frames: Tensor) -> list[float]:
    known, hidden = frames[:FRAMES], frames[FRAMES:]
    made = torch.stack(list(continued_by_flow(known, FRAMES, "onwards")))
    return [
        peak_signal_to_noise(made[[at]], hidden[[at]]) - peak_signal_to_noise(known[-1:], hidden[[at]])
        for at in REPORTED
    ]


def followed(clip: WorldClip, decoded: Tensor, direction: str) -> tuple[float, float, float]:
    """The path's correlation, the share of frames with the thing as it was, and its last error, in % of the width."""
    scenes, thing = clip.scenes(2 * FRAMES), clip.clip.scene.things[0]
    if direction == "backwards":  # the clip from its end: what came before is what follows
        scenes, decoded = scenes[::-1], decoded.flip(0)
    known = decoded[:FRAMES].flip(0) if direction == "backwards" else decoded[:FRAMES]
    made = torch.stack(list(continued_by_flow(known, FRAMES, direction)))
    made = made.flip(0) if direction == "backwards" else made
    seen = [read_image(image).thing(thing.colour) for image in to_uint8(made)]
    centres, wanted = [one and one.centre for one in seen], [truth(scene).centres[0] for scene in scenes[FRAMES:]]
    errors = [np.hypot(*np.subtract(a, b)) if a else 0.5 for a, b in zip(centres, wanted, strict=True) if b is not None]
    kept = np.mean([one is not None and one.kind == thing.kind for one in seen])
    return trajectory_correlation(centres, wanted), float(kept), float(100 * errors[-1])


def drawn(numbers: list[int], plans: list[str]) -> None:
    checkpoint, found = load_checkpoint(miniature_path()), {}
    for number in numbers:
        for clip in further_clips(number):
            if clip.plan.name not in plans:
                continue
            frames = torch.from_numpy(draw_clip(clip.scenes(2 * FRAMES))).float() / 255
            decoded = checkpoint.decode_video(checkpoint.encode_video(frames))
            for direction in ("onwards", "backwards"):
                figures = followed(clip, decoded, direction)
                found.setdefault(clip.plan.name, []).append(figures)
                print(
                    number, clip.name, direction, "path {:.2f}, kept {:.2f}, off {:.1f} %".format(*figures), flush=True
                )
    for plan, figures in found.items():
        path, kept, off = np.array(figures).T
        print(
            f"{plan}: path {path.mean():.2f} ({path.min():.2f}), kept {kept.mean():.2f} ({kept.min():.2f}), "
            f"off {off.mean():.1f} % ({off.max():.1f} %)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", metavar="CLIP")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--drawn", nargs="+", type=int, default=[], metavar="NUMBER", help="from 2 on")
    names = [plan.name for plan in PLANS]
    parser.add_argument("--plans", nargs="+", choices=names, default=names, metavar="PLAN", help=", ".join(names))
    options = parser.parse_args()
    means = []
    for clip in options.clips:
        found = [
            gains(read_frames(clip, 2 * FRAMES, size=options.size, stride=1, start=start).frames) for start in STARTS
        ]
        means.append(np.mean(found, axis=0))
        print(clip, np.round(means[-1], 1))
    if means:
        print("mean", np.round(np.mean(means, axis=0), 1))
    drawn(options.drawn, options.plans)


if __name__ == "__main__":
    main()
