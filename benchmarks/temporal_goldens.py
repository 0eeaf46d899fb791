"""Writes tests/golden/published/temporal_layers.*: what published temporal layers compute on small random inputs.

    python benchmarks/temporal_goldens.py --make-a-video DIR --video-diffusion DIR

Runs the unedited code of lucidrains/make-a-video-pytorch and lucidrains/video-diffusion-pytorch from their checkouts;
the second needs the package einops-exts. The README in the output folder names the commits and describes the files.
"""

import argparse
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import torch
from einops import rearrange
from published_goldens import FOLDER, commit, seeded
from safetensors.torch import save_file
from torch import Tensor, nn

STUBS = ["rotary_embedding_torch", "torchvision", "video_diffusion_pytorch.text"]  # imported, not used here
SIZES = {"batch": 2, "frames": 12, "pixels": 6, "channels": 16, "heads": 4}
FARTHEST = 80  # frames


def random_weights(module: nn.Module, seed: int) -> nn.Module:
    generator = seeded(seed)
    for weight in module.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
    return module.double()


def named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def pseudo_convolution(make_a_video) -> dict[str, Tensor]:
    """A spatial convolution and one over time, on a video and on its first frame as an image."""
    convolution = random_weights(make_a_video.PseudoConv3d(8, SIZES["channels"], 3), seed=1)
    video = torch.randn(SIZES["batch"], 8, 5, 6, 7, generator=seeded(2)).double()
    return named("convolution", convolution) | {
        "in.convolution": video,
        "out.convolution": convolution(video),
        "out.convolution.image": convolution(video[:, :, 0]),
    }


def biased_attention(video_diffusion) -> dict[str, Tensor]:
    """Temporal attention with a position bias; also where all videos, or the second alone, are seen as images."""
    heads, channels = SIZES["heads"], SIZES["channels"]
    attention = random_weights(video_diffusion.Attention(channels, heads, channels // heads), seed=3)
    bias = random_weights(video_diffusion.RelativePositionBias(heads, max_distance=32), seed=4)
    shape = SIZES["batch"], SIZES["pixels"], SIZES["frames"], channels
    hidden_states, scores = torch.randn(shape, generator=seeded(5)).double(), bias(SIZES["frames"], "cpu")
    tensors = named("attention", attention) | named("bias", bias) | {"in.attention": hidden_states}
    for name, images in {"videos": [False, False], "images": [True, True], "one": [False, True]}.items():
        mask = torch.tensor(images)
        tensors[f"out.attention.{name}"] = attention(hidden_states, pos_bias=scores, focus_present_mask=mask)
    tensors["out.attention.unbiased"] = attention(hidden_states)
    return tensors


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("make-a-video", "video-diffusion"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"checkout of lucidrains/{name}-pytorch")
    options = parser.parse_args()
    sys.path[:0] = [str(options.make_a_video), str(options.video_diffusion)]
    sys.modules |= {name: MagicMock() for name in STUBS}
    from make_a_video_pytorch import make_a_video
    from video_diffusion_pytorch import video_diffusion_pytorch as video_diffusion

    tensors = pseudo_convolution(make_a_video) | biased_attention(video_diffusion)
    frames = torch.arange(FARTHEST)
    distances = rearrange(frames, "j -> 1 j") - rearrange(frames, "i -> i 1")
    buckets = video_diffusion.RelativePositionBias._relative_position_bucket(distances, 32, 32)
    of_references = {
        "make-a-video": f"lucidrains/make-a-video-pytorch@{commit(options.make_a_video)}",
        "video-diffusion": f"lucidrains/video-diffusion-pytorch@{commit(options.video_diffusion)}",
    }
    settings = SIZES | {"buckets_ahead": buckets[0].tolist(), "buckets_behind": buckets[:, 0].tolist()}
    facts = {"made_with": {"torch": torch.__version__} | of_references, "settings": settings}
    (FOLDER / "temporal_layers.json").write_text(json.dumps(facts) + "\n")
    save_file({name: t.float().contiguous() for name, t in tensors.items()}, FOLDER / "temporal_layers.safetensors")


if __name__ == "__main__":
    main()
