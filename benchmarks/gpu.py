"""Measures tuning, inversion and sampling on a GPU: time, memory, rate, precision. See README.md in this folder."""

import argparse
import copy
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from steps import SCHEDULE, SD15, clock
from torch.utils.flop_counter import FlopCounterMode

from tav_core import InflatedUNet, NoisePredictor, TuneConfig, guided, inflate, invert, sample, tune
from tav_core.checkpoints.checkpoint import load_checkpoint
from tav_core.demo.miniature import miniature_path
from tav_core.demo.settings import SETTINGS
from tav_core.memory import inference_memory, tuning_memory
from tav_core.metrics import peak_signal_to_noise
from tav_core.precision import PRECISIONS
from tav_core.world.draw import draw_clip
from tav_core.world.protocol import clips_to_choose_by

DDIM = DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
GIB = 2**30
UNTIMED = 3  # steps: to warm up, counted, and after the counter has emptied the allocator


class Measured:
    """Counts the second step's floating-point operations; times those from the fourth on; records the peak memory."""

    def __init__(self, device: torch.device):
        self.device, self.ends, self.counter = device, [], FlopCounterMode(display=False)
        self.counting, self.losses = False, []

    def on_step(self, step: int, total: int, loss: float | None = None, **_) -> None:
        self.ends.append(clock(self.device.type))
        self.losses.append(loss)
        if step == 1:
            self.counter.__enter__()
            self.counting = True
        elif self.counting:
            self.close()

    def close(self, *, forget: bool = True) -> None:
        """Stops counting. forget: the peak so far, as the counter keeps tensors alive."""
        if self.counting:
            self.counter.__exit__(None, None, None)
        self.counting = False
        if forget and self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def seconds(self) -> float:
        return (self.ends[-1] - self.ends[2]) / (len(self.ends) - 3)

    @property
    def peak(self) -> float:
        return torch.cuda.max_memory_allocated(self.device) / GIB if self.device.type == "cuda" else float("nan")

    def row(self, *names: str, estimate: float, rate: float) -> str:
        share = self.counter.get_total_flops() / self.seconds / rate
        cells = *names, f"{self.seconds:.3f}", f"{self.peak:.1f}", f"{estimate / GIB:.1f}", f"{share:.0%}"
        return "| " + " | ".join(cells) + " |"


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of a large matrix product on random data."""
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    for _ in range(3):
        a @ b
    started = clock(device.type)
    for _ in range(10):
        a @ b
    return 10 * 2 * side**3 / (clock(device.type) - started)


@contextmanager
def going_on(what: str) -> Iterator[None]:
    """Prints what failed, and lets the rest be measured."""
    try:
        yield
    except torch.OutOfMemoryError:
        print(f"| {what} | out of memory |", flush=True)
    except Exception:
        print(f"| {what} | failed |\n{traceback.format_exc()}", flush=True)


def bytes_of(unet: InflatedUNet) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in unet.parameters())


def measure_tuning(unet: InflatedUNet, latents, prompt, steps: int, rates: dict[str, float]) -> None:
    """Every precision and both ways, from the same start, so that their losses can be compared."""
    start = {name: parameter.detach().cpu().clone() for name, parameter in unet.trainable_parameters().items()}
    losses = {}
    for precision in rates:
        for checkpointing in (False, True):
            names = "tune", precision, "on" if checkpointing else "off"
            with going_on(" | ".join(names)):
                config = TuneConfig(
                    num_steps=steps + UNTIMED, gradient_checkpointing=checkpointing, mixed_precision=precision
                )
                estimate = tuning_memory(unet, latents.shape, checkpointing=checkpointing, half=precision != "no")
                measured = Measured(latents.device)
                try:
                    tune(unet, latents, prompt, DDPMScheduler(**SCHEDULE), config, on_step=measured.on_step)
                finally:
                    measured.close(forget=False)
                print(measured.row(*names, estimate=estimate + bytes_of(unet), rate=rates[precision]), flush=True)
                losses[names] = torch.tensor(measured.losses)
            for name, parameter in unet.trainable_parameters().items():
                parameter.data.copy_(start[name])
    if ("tune", "no", "on") in losses:
        exact = losses["tune", "no", "on"]
        worst = {names: ((each - exact).abs() / exact).max().item() for names, each in losses.items()}
        print("largest relative difference of a step's loss from float32's with checkpointing:")
        print("; ".join(f"{precision}, {on}: {each:.1e}" for (_, precision, on), each in worst.items()), flush=True)


def measure_inference(unet: InflatedUNet, latents, prompt, steps: int, rates: dict[str, float]) -> None:
    unet, results = unet.cpu(), {}
    for precision in rates:
        dtype = PRECISIONS[precision]
        network = copy.deepcopy(unet).to(latents.device, dtype).eval()
        for job, latents_of in _inference(network, latents.to(dtype), prompt.to(dtype), steps).items():
            with going_on(f"{job} | {precision} | "):
                measured = Measured(latents.device)
                try:
                    results[job, precision] = latents_of(measured.on_step).float()
                finally:
                    measured.close(forget=False)
                rows = 2 if job == "sample" else 1
                estimate = inference_memory(network, (rows, *latents.shape[1:])) + bytes_of(network)
                print(measured.row(job, precision, "", estimate=estimate, rate=rates[precision]), flush=True)
        del network, latents_of  # or its memory would count in the next one's
    for (job, precision), result in results.items():
        exact = results.get((job, "no"))
        if precision != "no" and exact is not None:
            print(f"{job} in {precision}: {((result - exact).norm() / exact.norm()).item():.1e} from float32's latents")


def _inference(network: InflatedUNet, latents, prompt, steps: int) -> dict[str, Callable]:
    """on_step -> the latents after inversion, and after guided sampling."""
    cond, uncond = NoisePredictor(network, prompt, DDIM), NoisePredictor(network, 0 * prompt, DDIM)
    steps += UNTIMED
    return {
        "invert": lambda on_step: invert(uncond, latents, DDIM, steps, on_step=on_step)[-1],
        "sample": lambda on_step: sample(guided(cond, uncond, 12.5), latents, DDIM, steps, on_step=on_step),
    }


def measure_frames(device: torch.device, steps: int) -> None:
    """Tunes, inverts, reconstructs and edits with the trained miniature; compares frames with float32's, in dB."""
    clip = clips_to_choose_by()[0]
    frames = torch.from_numpy(draw_clip(clip.scenes(SETTINGS.frames))).float() / 255
    shown = {}
    for precision, dtype in PRECISIONS.items():
        with going_on(f"miniature | {precision} | "):
            checkpoint = load_checkpoint(miniature_path()).to(device)
            unet, scheduler = inflate(checkpoint.unet), checkpoint.scheduler
            latents = checkpoint.encode_video(frames)
            words = checkpoint.encode_prompt(clip.prompt)
            config = TuneConfig(num_steps=steps, learning_rate=SETTINGS.learning_rate, mixed_precision=precision)
            started = time.perf_counter()
            report = tune(unet, latents, words, DDPMScheduler.from_config(scheduler.config), config)
            unet.to(dtype).eval()
            uncond, edited = (
                NoisePredictor(unet, checkpoint.encode_prompt(prompt).embeds.to(dtype), scheduler)
                for prompt in ("", clip.edits[0].prompt)
            )
            noise = invert(uncond, latents.to(dtype), scheduler, SETTINGS.inversion_steps)[-1]
            again = sample(uncond, noise, scheduler, SETTINGS.inversion_steps)
            new = sample(guided(edited, uncond, SETTINGS.guidance_scale), noise, scheduler, SETTINGS.steps)
            seconds = time.perf_counter() - started
            shown[precision] = [checkpoint.decode_video(each.float()).cpu() for each in (again, new)]
            loss, quality = sum(report.losses[-10:]) / 10, peak_signal_to_noise(shown[precision][0], frames)
            line = f"miniature in {precision}: {seconds:.1f} s, last losses {loss:.4f}, reconstruction {quality:.1f} dB"
            if precision != "no" and "no" in shown:
                worst = [
                    min(peak_signal_to_noise(a[None], b[None]) for a, b in zip(mine, exact, strict=True))
                    for mine, exact in zip(shown[precision], shown["no"], strict=True)
                ]
                line += f"; worst frame against float32's: reconstruction {worst[0]:.1f} dB, edit {worst[1]:.1f} dB"
            print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", type=int, default=64, help="of the latents")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--precisions", default="bf16,fp16,no", help="any of bf16, fp16 and no, which is float32")
    parser.add_argument("--channels", type=int, default=SD15["block_out_channels"][0], help="fewer: a smaller network")
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrices used to measure the matmul rate")
    parser.add_argument("--miniature-steps", type=int, default=SETTINGS.tuning_steps, help="0 leaves it out")
    args = parser.parse_args()
    device, precisions = torch.device(args.device), args.precisions.split(",")
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    print(f"{card}, torch {torch.__version__}, {args.frames} frames of {args.size}x{args.size} latents")
    rates = {name: matmul_rate(device, PRECISIONS[name], args.matrix) for name in precisions}
    print("matmul rate: " + ", ".join(f"{name} {rate / 1e12:.1f} TFLOP/s" for name, rate in rates.items()))
    torch.manual_seed(0)
    with device:
        widths = {"block_out_channels": tuple(factor * args.channels for factor in (1, 2, 4, 4))}
        unet = UNet2DConditionModel(**SD15 | widths).eval()
    unet = inflate(unet)
    shape = (1, 4, args.frames, args.size, args.size)
    latents, prompt = torch.randn(shape, device=device), torch.randn(1, 77, 768, device=device)
    print("| job | precision | checkpointing | step s | peak GiB | estimated GiB | share of the matmul rate |")
    print("|---|---|---|---|---|---|---|", flush=True)
    measure_tuning(unet, latents, prompt, args.steps, rates)
    measure_inference(unet, latents, prompt, args.steps, rates)
    if args.miniature_steps:
        measure_frames(device, args.miniature_steps)


if __name__ == "__main__":
    main()
