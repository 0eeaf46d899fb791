"""How well ComfyUI's own samplers keep an edit's motion, on the real server, with the miniature.

    python benchmarks/samplers.py [NAME...]

Runs try-with-the-miniature with TAV Sample, with KSampler (Advanced) and with SamplerCustomAdvanced in its place, and
prints of each the IoU of the ball with the ideal: how much of it lies where it should, 1 for all. Finds ComfyUI as the
tests do. NAMEs: beginnings of the lines to print; by default all. Half a minute each on a busy core.
"""

import argparse
import io
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from PIL import Image

from tav_core.demo.showcase import CLIP
from tav_core.metrics import peak_signal_to_noise
from tav_core.world.judge import Edit, Judge
from tests.find_comfyui import find_comfyui
from tests.host.client import Client
from tests.host.server import Server
from tests.host.workflows import new, workflow

OURS = "TAV Sample"
GROUND = "beach"
STEPS, GUIDANCE = 20, 2.5
PLAIN = ("euler", "dpmpp_2m", "uni_pc", "heun")
NOISY = ("euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde")
SCHEDULERS = ("normal", "simple", "karras")


def ways() -> dict[str, dict]:
    """The nodes that stand in the place of TAV Sample, by a name that says which."""
    found = {OURS: {}}
    for sampler, scheduler in [
        ("ddim", "ddim_uniform"),
        ("euler", "ddim_uniform"),
        *((sampler, scheduler) for sampler in PLAIN for scheduler in SCHEDULERS),
        *((sampler, "normal") for sampler in NOISY),
    ]:
        inputs = {"add_noise": "disable", "noise_seed": 0, "steps": STEPS, "cfg": GUIDANCE}
        inputs |= {"sampler_name": sampler, "scheduler": scheduler, "start_at_step": 0, "end_at_step": 10000}
        links = {"model": ["tune", 0], "positive": ["edit", 0], "negative": ["nothing", 0]}
        leftover = {"latent_image": ["invert", 0], "return_with_leftover_noise": "disable"}
        found[f"KSampler (Advanced), {sampler}, {scheduler}"] = {
            "sample": new("KSamplerAdvanced", **inputs, **links, **leftover)
        }
    for sampler in ("euler", "dpmpp_2m", "uni_pc"):
        guided = {"positive": ["edit", 0], "negative": ["nothing", 0], "cfg": GUIDANCE}
        links = {"noise": ["invert", 2], "sigmas": ["invert", 1], "latent_image": ["invert", 0]}
        found[f"SamplerCustomAdvanced, {sampler}, DDIM Invert's sigmas"] = {
            "guider": new("CFGGuider", model=["tune", 0], **guided),
            "sampler": new("KSamplerSelect", sampler_name=sampler),
            "sample": new("SamplerCustomAdvanced", guider=["guider", 0], sampler=["sampler", 0], **links),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=[""])
    names = tuple(parser.parse_args().names)
    judge = Judge(Edit("background", CLIP, replace(CLIP, scene=replace(CLIP.scene, ground=GROUND))), 8)
    plain = {key: node for key, node in workflow("try-with-the-miniature").items() if key not in ("video", "save")}
    plain["edit"]["inputs"]["text"] = f"a red ball is moving on the {GROUND}"
    plain["frames"] = new("SaveImage", images=["decode", 0], filename_prefix="frames")
    ours = None
    with tempfile.TemporaryDirectory() as base, Server(find_comfyui(), Path(base)) as server:
        client = Client(server)
        for name, nodes in ways().items():
            if not (name == OURS or name.startswith(names)):
                continue
            run = client.run(plain | nodes)
            if run.status != "success":
                raise SystemExit(f"{name}: {run.message}")
            files = run.outputs["frames"]["images"]
            frames = np.stack([np.asarray(Image.open(io.BytesIO(client.view(file))).convert("RGB")) for file in files])
            video = torch.from_numpy(frames).float() / 255
            ours = video if ours is None else ours
            alike = peak_signal_to_noise(video, ours)
            print(f"{name}: IoU {judge.figures(video)['iou']:.2f}, {alike:.0f} dB to TAV Sample", flush=True)


if __name__ == "__main__":
    main()
