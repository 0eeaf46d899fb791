"""Times steps of the original implementation's unedited code in its own environment (see README.md here).

Run by `compare.py` with the original's Python: takes a JSON configuration, prints a line `RESULT {json}`.
"""

import importlib.machinery
import json
import os
import sys
import types


def import_original(checkout: str) -> None:
    """Makes the original's modules importable; packages that it needs only to read and write files are stubs."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, checkout)
    import diffusers  # noqa: F401  (looks for torchvision itself, so import it before the stub)
    import transformers  # noqa: F401

    for name in ("torchvision", "imageio", "decord"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.bridge = types.SimpleNamespace(set_bridge=lambda *_: None)
        sys.modules.setdefault(name, module)


def main() -> None:
    config = json.loads(sys.argv[1])
    import_original(config["checkout"])
    import torch
    import torch.nn.functional as F
    from diffusers import DDIMScheduler, DDPMScheduler
    from steps import SCHEDULE, SD15, Stopwatch, peak_memory
    from torch.utils import checkpoint
    from tuneavideo.models.unet import UNet3DConditionModel
    from tuneavideo.util import get_noise_pred_single, next_step

    torch.set_num_threads(config["threads"])
    torch.manual_seed(0)
    unet = UNet3DConditionModel(**SD15).eval().requires_grad_(False)
    latents = torch.randn(1, 4, config["frames"], config["size"], config["size"])
    prompt, empty = torch.randn(2, 1, 77, SD15["cross_attention_dim"])
    watch = Stopwatch(config["steps"])

    if config["job"] == "tune":
        for name, module in unet.named_modules():
            if name.endswith(("attn1.to_q", "attn2.to_q", "attn_temp")):
                module.requires_grad_(True)
        if config["checkpointing"]:  # its own is reentrant and leaves the down blocks untrained; this trains them all
            unet.enable_gradient_checkpointing()
            reentrant = checkpoint.checkpoint
            checkpoint.checkpoint = lambda *args: reentrant(*args, use_reentrant=False)
        scheduler = DDPMScheduler(**SCHEDULE)
        optimizer = torch.optim.AdamW(unet.parameters(), lr=3e-5, weight_decay=1e-2)
        unet.train()
        for _ in watch:
            noise, timestep = torch.randn_like(latents), torch.randint(0, 1000, (1,))
            prediction = unet(scheduler.add_noise(latents, noise, timestep), timestep, prompt).sample
            F.mse_loss(prediction, noise).backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    else:
        scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
        scheduler.set_timesteps(50)
        with torch.no_grad():
            for i in watch:
                if config["job"] == "invert":
                    t = scheduler.timesteps[-1 - i]
                    latents = next_step(get_noise_pred_single(latents, t, empty, unet), t, latents, scheduler)
                else:  # the body of the pipeline's denoising loop
                    t = scheduler.timesteps[i]
                    both = unet(torch.cat([latents] * 2), t, encoder_hidden_states=torch.cat([empty, prompt])).sample
                    uncond, cond = both.chunk(2)
                    latents = scheduler.step(uncond + 12.5 * (cond - uncond), t, latents).prev_sample
    result = {"seconds": watch.seconds, "peak_gib": peak_memory()}
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
