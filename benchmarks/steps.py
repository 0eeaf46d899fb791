"""What both workers share: the network's shape, the noise schedule, a stopwatch and the peak memory."""

import resource
import time
from collections.abc import Iterator

import torch

SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def clock(device: str) -> float:
    """The time in seconds, once the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Stopwatch:
    """Iterates over one warm-up step and `steps` timed steps; `seconds` holds the times of the latter."""

    def __init__(self, steps: int, device: str):
        self.steps, self.device, self.seconds = steps, device, []

    def __iter__(self) -> Iterator[int]:
        for i in range(1 + self.steps):
            started = clock(self.device)
            yield i
            if i:
                self.seconds.append(clock(self.device) - started)


def forget_peak(device: str) -> None:
    """Lets a GPU's peak memory count from now on, after the weights were cast."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: str) -> float:
    """In GiB: the most that torch had allocated on the GPU, or this process's largest resident memory (in KiB)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
