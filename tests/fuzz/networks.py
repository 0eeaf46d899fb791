"""Checkpoints, LoRAs, control networks, and results of the original."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from diffusers import DDPMScheduler
from safetensors.torch import load, load_file

from tav_core.checkpoints.checkpoint import load_checkpoint
from tav_core.checkpoints.control_networks import open_controlnet, open_t2i_adapter
from tav_core.checkpoints.lora import Lora, fuse_loras
from tav_core.ddim import visited_timesteps
from tav_core.demo.miniature import MINIATURE
from tav_core.inflate import inflate
from tav_core.jobs.original_weights import load_weights
from tests.fuzz import material
from tests.fuzz.mutations import as_json, odd_value, of_bytes, of_header, of_tensor, of_tensors, of_value, times
from tests.fuzz.registry import reader


def use_checkpoint(path: Path) -> None:
    """Opens a checkpoint, and asks each of its parts once."""
    opened = load_checkpoint(path)
    opened.encode_prompt("a red ball")
    opened.encode_video(torch.zeros(1, 16, 16, 3))
    visited_timesteps(opened.scheduler, 4)
    DDPMScheduler.from_config(opened.scheduler.config)
    unet = inflate(opened.unet)
    with torch.no_grad():
        unet(torch.zeros(1, 4, 2, 8, 8), torch.tensor([1]), opened.encode_prompt("a").embeds)


@reader
def checkpoint_file(rng: Random, folder: Path) -> Callable[[], object]:
    path, data = folder / "sd.safetensors", material.single_file()
    if rng.random() < 0.7:
        tensors = load(data)
        tensors, _ = times(rng, lambda rng, both: of_tensors(rng, both[0], {}), (tensors, {}))
        data = material.safetensors(tensors)
    else:
        data = of_header(rng, data) if rng.random() < 0.6 else of_bytes(rng, data)
    path.write_bytes(data)
    return lambda: use_checkpoint(path)


def changed_folder(rng: Random, source: Path, to: Path) -> Path:
    """A copy of a diffusers folder with one file changed or gone."""
    folder = material.copied(source, to)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and "lora" not in file.name)
    texts = [file for file in files if file.suffix in (".json", ".txt", ".yaml")]
    file = rng.choice(texts if rng.random() < 0.7 else files)
    data = file.read_bytes()
    if rng.random() < 0.1:
        file.unlink()
    elif file.suffix == ".json" and rng.random() < 0.8:
        material.replaced(file, as_json(times(rng, of_value, json.loads(data))))
    elif file.suffix == ".safetensors" and rng.random() < 0.7:
        tensors, _ = of_tensors(rng, load_file(file), {})
        material.replaced(file, material.safetensors(tensors, {"format": "pt"}))
    elif file.suffix == ".bin" and rng.random() < 0.7:
        material.replaced(file, pickled(rng, torch.load(file, weights_only=True)))
    elif rng.random() < 0.2:
        material.replaced(file, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    else:
        material.replaced(file, times(rng, of_bytes, data))
    return folder


def pickled(rng: Random, tensors: dict) -> bytes:
    """A pickle of weights, of which one thing is changed."""
    kind, name, file = rng.randrange(5), rng.choice(list(tensors)), io.BytesIO()
    if kind == 0:
        tensors = {rng.choice((1, None, ("a", 1), b"x")): tensors[name], **tensors}
    elif kind == 1:
        tensors = {rng.choice(("state_dict", "adapter")): rng.choice((tensors, [tensors], tensors[name], {1: 2}))}
    elif kind == 2:
        tensors = rng.choice((list(tensors.values())[:3], tensors[name], 5, None, {}, {"a": "b"}))
    elif kind == 3:
        tensors = {**tensors, name: odd_value(rng)}
    else:
        tensors = {**tensors, name: of_tensor(rng, tensors[name])}
    torch.save(tensors, file)
    return file.getvalue()


@reader
def checkpoint_folder(rng: Random, folder: Path) -> Callable[[], object]:
    path = changed_folder(rng, MINIATURE, folder / "sd")
    return lambda: use_checkpoint(path)


@reader
def originals_result(rng: Random, folder: Path) -> Callable[[], object]:
    path = changed_folder(rng, material.original(), folder / "result")
    return lambda: load_weights(path).facts.as_metadata()


@reader
def lora(rng: Random, folder: Path) -> Callable[[], object]:
    tensors, header = material.lora()
    peft = rng.random() < 0.3
    path = folder / ("adapter_model.safetensors" if peft else "lora.safetensors")
    if peft:
        settings = {"lora_alpha": 4, "r": 4, "use_rslora": False, "alpha_pattern": {"to_q": 2}, "rank_pattern": {}}
        (folder / "adapter_config.json").write_text(as_json(times(rng, of_value, settings)), errors="surrogatepass")
    else:
        settings = json.loads(header["lora_adapter_metadata"])
        header = header | {"lora_adapter_metadata": as_json(times(rng, of_value, settings))}
    if rng.random() < 0.7:
        tensors, _ = times(rng, lambda rng, both: of_tensors(rng, both[0], {}), (tensors, {}))
    data = material.safetensors(tensors, None if peft or rng.random() < 0.5 else header)
    if rng.random() < 0.3:
        data = of_header(rng, data) if rng.random() < 0.5 else of_bytes(rng, data)
    path.write_bytes(data)
    return lambda: fuse_loras(copy.deepcopy(material.miniature()), [Lora(path)])


def network(rng: Random, source: Path, folder: Path, renamed: Callable[[str], str]) -> Path:
    """A control network: a changed folder, or a single file with these names."""
    if rng.random() < 0.4:
        return changed_folder(rng, source, folder / "net")
    tensors = load_file(source / "diffusion_pytorch_model.safetensors")
    tensors = {renamed(name): tensor for name, tensor in tensors.items()}
    path = folder / rng.choice(("net.safetensors", "net.pth"))
    if path.suffix == ".pth":
        data = pickled(rng, tensors) if rng.random() < 0.7 else of_bytes(rng, pickled(Random(4), tensors))
    else:
        tensors, _ = times(rng, lambda rng, both: of_tensors(rng, both[0], {}), (tensors, {}))
        data = material.safetensors(tensors)
        data = data if rng.random() < 0.7 else rng.choice((of_header, of_bytes))(rng, data)
    path.write_bytes(data)
    return path


@reader
def controlnet(rng: Random, folder: Path) -> Callable[[], object]:
    prefix = rng.choice(("", "", "control_model."))
    path = network(rng, MINIATURE / "pose", folder, lambda name: prefix + name)
    return lambda: open_controlnet(path)


@reader
def t2i_adapter(rng: Random, folder: Path) -> Callable[[], object]:
    plain = rng.random() < 0.5
    path = network(rng, MINIATURE / "depth", folder, lambda name: name.removeprefix("adapter.") if plain else name)
    return lambda: open_t2i_adapter(path)
