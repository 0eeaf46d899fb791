"""Times steps of the original implementation's unedited code in its own environment (see README.md here).

Run by `compare.py` with the original's Python: takes a JSON configuration, prints a line `RESULT {json}`.
"""

import importlib.machinery
import importlib.metadata
import json
import os
import sys
import types
from unittest import mock

TOO_NEW = ("accelerate", "flax", "onnxruntime", "scipy", "transformers")  # diffusers uses them if it finds them


def import_original(checkout: str, *, among_newer: bool = False) -> None:
    """Makes the original's modules importable; packages that it needs only to read and write files are stubs.

    among_newer: diffusers 0.11.1 was put in front of an environment with newer packages. It then imports no optional
        ones, and gets stubs of what it imports from distutils, which Python 3.12 lacks.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, checkout)
    if among_newer:
        _import_old_diffusers()
    else:
        import diffusers  # noqa: F401  (looks for torchvision itself, so import it before the stub)
        import transformers  # noqa: F401

    for name in ("torchvision", "imageio", "decord"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.bridge = types.SimpleNamespace(set_bridge=lambda *_: None)
        sys.modules.setdefault(name, module)


def _import_old_diffusers() -> None:
    for name in ("distutils", "distutils.util", "distutils.version"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["distutils.util"].strtobool = sys.modules["distutils.version"].StrictVersion = None
    version = importlib.metadata.version

    def version_if_old(name: str) -> str:
        if name in TOO_NEW:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    with mock.patch("importlib.metadata.version", version_if_old):
        import diffusers  # noqa: F401


def main() -> None:
    config = json.loads(sys.argv[1])
    import_original(config["checkout"], among_newer=config["among_newer"])
    import torch
    import torch.nn.functional as F
    from diffusers import DDIMScheduler, DDPMScheduler
    from steps import PRECISIONS, SCHEDULE, SD15, Stopwatch, forget_peak, peak_memory
    from torch.utils import checkpoint
    from tuneavideo.models.unet import UNet3DConditionModel
    from tuneavideo.util import get_noise_pred_single, next_step

    torch.set_num_threads(config["threads"])
    torch.manual_seed(0)
    device, dtype = config["device"], PRECISIONS[config["precision"]]
    with torch.device(device):  # a GPU initializes the network much faster
        unet = UNet3DConditionModel(**SD15).eval().requires_grad_(False)
        latents = torch.randn(1, 4, config["frames"], config["size"], config["size"], dtype=dtype)
        prompt, empty = torch.randn(2, 1, 77, SD15["cross_attention_dim"], dtype=dtype)
    watch = Stopwatch(config["steps"], device)

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
        # what accelerate does for mixed precision: float32 weights, autocast around the network, scaled gradients
        autocast = torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)
        scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
        unet.train()
        forget_peak(device)
        for _ in watch:
            noise, timestep = torch.randn_like(latents), torch.randint(0, 1000, (1,), device=device)
            noisy = scheduler.add_noise(latents, noise, timestep)
            with autocast:
                prediction = unet(noisy, timestep, prompt).sample
            scaler.scale(F.mse_loss(prediction.float(), noise.float())).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    else:
        scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
        scheduler.set_timesteps(50, device=device if config["job"] == "sample" else None)
        unet.to(dtype)
        forget_peak(device)
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
    result = {"seconds": watch.seconds, "peak_gib": peak_memory(device)}
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
