"""What both workers share: the network's shape, the noise schedule, a stopwatch and the process's peak memory."""

import resource
import time
from collections.abc import Iterator

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


class Stopwatch:
    """Iterates over one warm-up step and `steps` timed steps; `seconds` holds the times of the latter."""

    def __init__(self, steps: int):
        self.steps, self.seconds = steps, []

    def __iter__(self) -> Iterator[int]:
        for i in range(1 + self.steps):
            started = time.perf_counter()
            yield i
            if i:
                self.seconds.append(time.perf_counter() - started)


def peak_memory() -> float:
    """The largest resident memory of this process so far, in GiB (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
