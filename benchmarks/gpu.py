"""Times tuning on a GPU: step time, peak memory, share of the GPU's matmul rate. See README.md in this folder."""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from steps import SCHEDULE, SD15
from torch.utils.flop_counter import FlopCounterMode

from tav_core import TuneConfig, inflate, tune
from tav_core.memory import tuning_memory


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of a large matrix product on random data."""
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    for _ in range(3):
        a @ b
    synchronize(device)
    started = time.perf_counter()
    for _ in range(10):
        a @ b
    synchronize(device)
    return 10 * 2 * side**3 / (time.perf_counter() - started)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", type=int, default=64, help="of the latents")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--precision", default="bf16", choices=("no", "bf16", "fp16"))
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrices used to measure the matmul rate")
    args = parser.parse_args()
    device = torch.device(args.device)
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[args.precision]
    rate = matmul_rate(device, dtype, args.matrix)
    torch.manual_seed(0)
    unet = inflate(UNet2DConditionModel(**SD15).eval()).to(device)
    shape = (1, 4, args.frames, args.size, args.size)
    latents, prompt = torch.randn(shape, device=device), torch.randn(1, 77, 768, device=device)
    print(f"matmul rate {rate / 1e12:.1f} TFLOP/s in {args.precision}")
    print("| checkpointing | step s | peak GiB | estimated GiB | share of the matmul rate |\n|---|---|---|---|---|")
    for checkpointing in (False, True):
        config = TuneConfig(
            num_steps=args.steps + 2, gradient_checkpointing=checkpointing, mixed_precision=args.precision
        )
        estimate = tuning_memory(unet, shape, checkpointing=checkpointing, half=args.precision != "no")
        weights = sum(p.numel() * p.element_size() for p in unet.parameters())
        ends, counter = [], FlopCounterMode(display=False)

        def on_step(step: int, total: int, ends=ends, counter=counter, **_) -> None:
            synchronize(device)
            ends.append(time.perf_counter())
            if step == 1:
                counter.__enter__()  # counts the second step, which is not timed
            if step == 2:
                counter.__exit__(None, None, None)

        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        tune(unet, latents, prompt, DDPMScheduler(**SCHEDULE), config, on_step=on_step)
        seconds = (ends[-1] - ends[1]) / args.steps
        peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
        share = counter.get_total_flops() / seconds / rate
        row = ("on" if checkpointing else "off", f"{seconds:.3f}", f"{peak:.1f}")
        print("|", " | ".join((*row, f"{(estimate + weights) / 2**30:.1f}", f"{share:.0%}")), "|", flush=True)


if __name__ == "__main__":
    main()
