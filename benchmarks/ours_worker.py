"""Times steps of ours through the public functions: takes a JSON configuration, prints a line `RESULT {json}`."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from steps import PRECISIONS, SCHEDULE, SD15, clock, forget_peak, peak_memory

from tav_core import NoisePredictor, TuneConfig, guided, inflate, invert, sample, tune


class Enough(Exception):
    """Raised from `on_step` once all steps are timed."""


class StepTimes:
    """An `on_step` that records how long each step took, after one warm-up step."""

    def __init__(self, steps: int, device: str):
        self.steps, self.device, self.seconds, self.last = steps, device, [], None

    def __call__(self, step: int, total: int, **_) -> None:
        now = clock(self.device)
        if self.last is not None:
            self.seconds.append(now - self.last)
        if len(self.seconds) == self.steps:
            raise Enough
        self.last = now


def main() -> None:
    config = json.loads(sys.argv[1])
    torch.set_num_threads(config["threads"])
    torch.manual_seed(0)
    device = config["device"]
    with torch.device(device):  # a GPU initializes the network much faster
        unet = UNet2DConditionModel(**SD15).eval().requires_grad_(False)
        latents = torch.randn(1, 4, config["frames"], config["size"], config["size"])
        prompt, empty = torch.randn(2, 1, 77, SD15["cross_attention_dim"])
    unet = inflate(unet)
    if config["job"] != "tune":  # tuning casts under autocast
        dtype = PRECISIONS[config["precision"]]
        unet, latents, prompt, empty = (x.to(dtype) for x in (unet, latents, prompt, empty))
    ddim = DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    cond, uncond = NoisePredictor(unet, prompt, ddim), NoisePredictor(unet, empty, ddim)
    times = StepTimes(config["steps"], device)
    forget_peak(device)
    try:
        if config["job"] == "tune":
            settings = TuneConfig(gradient_checkpointing=config["checkpointing"], mixed_precision=config["precision"])
            tune(unet, latents, prompt, DDPMScheduler(**SCHEDULE), settings, on_step=times)
        elif config["job"] == "invert":
            invert(uncond, latents, ddim, 50, on_step=times)
        else:
            sample(guided(cond, uncond, 12.5), latents, ddim, 50, on_step=times)
    except Enough:
        result = {"seconds": times.seconds, "peak_gib": peak_memory(device)}
        print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
