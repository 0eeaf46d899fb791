"""Where the time of a prediction and of a tuning step goes, operator by operator.

    python benchmarks/operators.py

For a network of Stable Diffusion 1.5's shape with random weights, prints what each of PyTorch's operators takes, how
many bytes it reads and writes, and the least that it could take at the device's own rates of copying and multiplying,
which are measured first. On a GPU each call counts for at least the microseconds that it takes to start it. The least
that attention takes is known for GPUs only.
"""

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from gpu import matmul_rate
from steps import PRECISIONS, SCHEDULE, SD15, clock
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tav_core import InflatedUNet, TuneConfig, inflate, tune

DTYPES = {torch.float32: "float32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass
class Cost:
    calls: int = 0
    seconds: float = 0.0
    moved: int = 0
    """Bytes read and written."""
    least: float = 0.0
    """Seconds."""


class Operators(TorchDispatchMode):
    """Times each operator that runs; costs: by its name and the dtype of what it returns."""

    def __init__(self, device: torch.device, copying: float, multiplying: dict[torch.dtype, float]):
        """copying: bytes/s; multiplying: FLOP/s."""
        super().__init__()
        self.device, self.copying, self.multiplying = device, copying, multiplying
        self.costs, self.timed = defaultdict(Cost), []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        started = self._mark()
        result = function(*arguments, **(named or {}))
        ended = self._mark()
        given, written = _tensors((arguments, named)), _changed(function, arguments, named or {})
        memory = {tensor.untyped_storage().data_ptr() for tensor in given}
        written += [tensor for tensor in _tensors(result) if tensor.untyped_storage().data_ptr() not in memory]
        if written:  # else it gives views
            cost = self.costs[function._schema.name.split("::")[1], DTYPES.get(written[0].dtype, "other")]
            moved = sum(min(tensor.nbytes, tensor.untyped_storage().nbytes()) for tensor in [*given, *written])
            counted = flop_registry.get(function._overloadpacket)
            flops = counted(*arguments, **(named or {}), out_val=result) if counted else 0
            rate = self.multiplying.get(written[0].dtype, max(self.multiplying.values()))
            cost.calls += 1
            cost.moved += moved
            cost.least += max(moved / self.copying, flops / rate)
            self.timed.append((cost, started, ended))
        return result

    def _mark(self):
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def __exit__(self, *error):
        super().__exit__(*error)
        clock(self.device.type)
        for cost, started, ended in self.timed:
            cost.seconds += _seconds(started, ended)


def _tensors(tree) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _changed(function, arguments: tuple, named: dict) -> list[Tensor]:
    """The arguments that an operator writes to; those of an optimizer's step return nothing."""
    expected = function._schema.arguments
    values = {argument.name: value for argument, value in zip(expected, arguments, strict=False)} | named
    return _tensors([values.get(each.name) for each in expected if each.alias_info and each.alias_info.is_write])


def _seconds(started, ended) -> float:
    return ended - started if isinstance(started, float) else started.elapsed_time(ended) / 1000


def copying_rate(device: torch.device, count: int) -> float:
    """Bytes read and written per second while copying."""
    source, target = torch.zeros(2, count, device=device)
    target.copy_(source)
    started = clock(device.type)
    for _ in range(10):
        target.copy_(source)
    return 10 * 2 * source.nbytes / (clock(device.type) - started)


def print_table(costs: dict[tuple[str, str], Cost], whole: float, rows: int) -> None:
    """whole: seconds of the same work without a look at its operators."""
    ordered = sorted(costs.items(), key=lambda item: -item[1].seconds)
    total = Cost(*(sum(getattr(cost, name) for cost in costs.values()) for name in vars(Cost())))
    rest = Cost(*(sum(getattr(cost, name) for _, cost in ordered[rows:]) for name in vars(Cost())))
    print("| operator | dtype | calls | ms | share | GB moved | least, ms |\n|---|---|---:|---:|---:|---:|---:|")
    for (name, dtype), cost in [*ordered[:rows], (("all others", ""), rest), (("all", ""), total)]:
        print(
            f"| {name} | {dtype} | {cost.calls} | {cost.seconds * 1e3:.1f} | {cost.seconds / total.seconds:.0%} "
            f"| {cost.moved / 1e9:.2f} | {cost.least * 1e3:.1f} |"
        )
    print(f"as a whole, without a look at its operators: {whole * 1e3:.1f} ms\n", flush=True)


def predict(unet: InflatedUNet, latents: Tensor, prompt: Tensor, look: Operators, rows: int) -> None:
    dtype = unet.dtype
    step = torch.no_grad()(lambda: unet(latents.to(dtype), 500, prompt.to(dtype)))
    step()
    started = clock(look.device.type)
    step()
    whole = clock(look.device.type) - started
    with look:
        step()
    print_table(look.costs, whole, rows)


def tune_once(unet: InflatedUNet, latents: Tensor, prompt: Tensor, look: Operators, rows: int, precision: str) -> None:
    ends = []

    def on_step(step: int, total: int, **_) -> None:
        ends.append(clock(look.device.type))
        if step == total - 1:
            look.__enter__()

    config = TuneConfig(num_steps=4, gradient_checkpointing=False, mixed_precision=precision)
    tune(unet, latents, prompt, DDPMScheduler(**SCHEDULE), config, on_step=on_step)
    look.__exit__(None, None, None)
    print_table(look.costs, ends[2] - ends[1], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", type=int, default=64, help="of the latents")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16", help="no is float32")
    parser.add_argument("--channels", type=int, default=SD15["block_out_channels"][0], help="fewer: a smaller network")
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrices used to measure the rates")
    parser.add_argument("--rows", type=int, default=20, help="operators to list")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), PRECISIONS[options.precision]
    copying = copying_rate(device, 16 * options.matrix**2 // 4)
    multiplying = {each: matmul_rate(device, each, options.matrix) for each in {dtype, torch.float32}}
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    rates = ", ".join(f"{DTYPES[each]} {rate / 1e12:.1f} TFLOP/s" for each, rate in multiplying.items())
    print(f"{card}, torch {torch.__version__}; copies {copying / 1e9:.0f} GB/s, multiplies {rates}")
    torch.manual_seed(0)
    with device:
        widths = {"block_out_channels": tuple(factor * options.channels for factor in (1, 2, 4, 4))}
        unet = inflate(UNet2DConditionModel(**SD15 | widths).eval())
    latents = torch.randn(1, 4, options.frames, options.size, options.size, device=device)
    prompt = torch.randn(1, 77, 768, device=device)
    print(f"A tuning step in {options.precision}, {options.frames} frames of {options.size}x{options.size} latents:\n")
    tune_once(unet, latents, prompt, Operators(device, copying, multiplying), options.rows, options.precision)
    print(f"A prediction in {options.precision}:\n")
    predict(unet.to(dtype).eval(), latents, prompt, Operators(device, copying, multiplying), options.rows)


if __name__ == "__main__":
    main()
