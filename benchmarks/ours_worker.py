"""Times steps of ours; one JSON configuration in, one `RESULT {json}` line out (see compare.py)."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from steps import SCHEDULE, SD15, Stopwatch, peak_memory

from tav_core import guided, inflate, invert, sample


def main() -> None:
    config = json.loads(sys.argv[1])
    torch.set_num_threads(config["threads"])
    torch.manual_seed(0)
    unet = inflate(UNet2DConditionModel(**SD15).eval().requires_grad_(False))
    latents = torch.randn(1, 4, config["frames"], config["size"], config["size"])
    prompt, empty = torch.randn(2, 1, 77, SD15["cross_attention_dim"])
    watch = Stopwatch(config["steps"])
    if config["job"] == "tune":
        import torch.nn.functional as F
        ps = unet.trainable_parameters()
        for p in ps.values(): p.requires_grad_(True)
        opt = torch.optim.AdamW(ps.values(), lr=3e-5, weight_decay=1e-2, fused=True)
        sch = DDPMScheduler(**SCHEDULE)
        unet.train()
        if config["checkpointing"]:
            unet.unet.enable_gradient_checkpointing()
        for _ in watch:
            noise, timestep = torch.randn_like(latents), torch.randint(0, 1000, (1,))
            prediction = unet(sch.add_noise(latents, noise, timestep), timestep, prompt)
            F.mse_loss(prediction, noise).backward()
            torch.nn.utils.clip_grad_norm_(ps.values(), 1.0)
            opt.step()
            opt.zero_grad()
    else:
        with torch.no_grad():
            for i in watch:
                if config["job"] == "invert":
                    unet(latents, 981, empty)
                else:
                    a, b = unet(torch.cat([latents, latents]), 981, torch.cat([empty, prompt])).chunk(2)
    print("RESULT " + json.dumps({"seconds": watch.seconds, "peak_gib": peak_memory()}), flush=True)


if __name__ == "__main__":
    main()
