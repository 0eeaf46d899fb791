"""ComfyUI and this pack, as ComfyUI loads it, inside the test's own process."""

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from tests.find_comfyui import find_comfyui

PACK = "tune_a_video"


@cache
def start() -> None:
    """Makes `comfy` importable on the CPU, and this repository the package that ComfyUI makes of it."""
    comfyui = str(find_comfyui())
    sys.path.insert(0, comfyui)  # before this repository, for `import nodes` must find the host's
    try:
        options = importlib.import_module("comfy.options")
        options.args_parsing = False
        importlib.import_module("comfy.cli_args").args.cpu = True
        for name in (
            "nodes",
            "latent_preview",
            "comfy.sample",
            "comfy.samplers",
            "comfy_api.latest",
            "comfy.controlnet",
        ):
            importlib.import_module(name)
    finally:
        sys.path.remove(comfyui)
        sys.path.append(comfyui)  # for what the host imports later; `tests` stays ours
    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location(PACK, root / "__init__.py", submodule_search_locations=[str(root)])
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])


def pack(name: str) -> ModuleType:
    """A module of this pack, such as "nodes.host.inflate"."""
    start()
    return importlib.import_module(f"{PACK}.{name}")


def core(name: str) -> ModuleType:
    """A module of ComfyUI."""
    start()
    return importlib.import_module(name)


class StableDiffusion(NamedTuple):
    """A checkpoint as its loader node gives it, read under inference mode as the host does."""

    path: Path
    model: object
    clip: object
    vae: object

    def text(self, prompt: str) -> list:
        """CONDITIONING."""
        with torch.inference_mode():
            return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt))

    def with_lora(self, path: Path, model=None, strength: float = 0.8):
        """MODEL, as LoraLoader makes it."""
        lora = core("comfy.utils").load_torch_file(str(path))
        with torch.inference_mode():
            return core("comfy.sd").load_lora_for_models(model or self.model, None, lora, strength, 0.0)[0]


@cache
def checkpoint(path: Path) -> StableDiffusion:
    load = core("comfy.sd").load_checkpoint_guess_config
    with torch.inference_mode():
        return StableDiffusion(path, *load(str(path), output_vae=True, output_clip=True)[:3])


@cache
def miniature() -> StableDiffusion:
    """The checkpoint of Load Miniature: all that does not depend on Stable Diffusion's sizes is tested on it."""
    with torch.inference_mode():
        loaded = pack("nodes.host.miniature").load_miniature(personalised=False)
    return StableDiffusion(pack("tav_core.demo.miniature").miniature_path(), *loaded)


def inputs(model, frames: int = 3, timestep: int = 300, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Random arguments of `predict` for a MODEL."""
    generator = torch.Generator().manual_seed(frames)
    width = model.model.model_config.unet_config["context_dim"]
    latents = torch.randn(batch, 4, frames, 8, 8, generator=generator)
    return latents, torch.tensor([timestep]), torch.randn(batch, 77, width, generator=generator)


@torch.inference_mode()
def executed(node, *given, unique_id: str | None = None, prompt: dict | None = None):
    """What a node gives for these inputs; `prompt` is the graph that it is in."""
    hidden = SimpleNamespace(unique_id=unique_id, prompt=prompt)
    return type(node.__name__, (node,), {"hidden": hidden}).execute(*given)


@torch.inference_mode()
def predict(model, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
    """The noise that a MODEL sees in latents (b, c, f, h, w), asked as CFGGuider does: samples stacked as conditions.

    timestep: (1,) or (b,); text: (b, n, d).
    """
    core("comfy.model_management").load_models_gpu([model, *model.get_nested_additional_models()])
    options = core("comfy.model_patcher").create_model_options_clone(model.model_options)
    core("comfy.sampler_helpers").prepare_model_patcher(model, {}, options)
    model.pre_run()
    batch, _, frames, _, _ = latents.shape
    sigma = model.get_model_object("model_sampling").sigmas[timestep.expand(batch)].repeat_interleave(frames)
    scale = sigma[:, None, None, None]
    noisy = rearrange(latents, "b c f h w -> (b f) c h w") * (scale**2 + 1).sqrt()
    asked = options["transformer_options"] | {"cond_or_uncond": list(range(batch)), "sigmas": sigma}
    text = text.repeat_interleave(frames, 0)
    try:
        clean = model.model.apply_model(noisy, sigma, c_crossattn=text, transformer_options=asked)
    finally:
        model.cleanup()
    return rearrange((noisy - clean) / scale, "(b f) c h w -> b c f h w", b=batch).clone()
