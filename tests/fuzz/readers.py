"""What reads a file or a text from outside, and how to make mutated ones of it.

A reader is a function (rng, folder) -> call: it writes one mutated input into an empty folder, from the random
numbers alone, and returns the call that reads it.
"""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
import yaml
from diffusers import DDPMScheduler
from safetensors.torch import load_file

from tav_core.checkpoints.checkpoint import load_checkpoint
from tav_core.checkpoints.control_networks import open_controlnet, open_t2i_adapter
from tav_core.checkpoints.lora import Lora, fuse_loras
from tav_core.cli.app import app
from tav_core.cli.main import main  # noqa: F401  # which registers all commands
from tav_core.cli.options import size_of
from tav_core.cli.original_config import read_config
from tav_core.ddim import visited_timesteps
from tav_core.demo.miniature import MINIATURE
from tav_core.evaluation.paper_table import edited_videos
from tav_core.evaluation.sampling import FORMAT as SAMPLES
from tav_core.evaluation.sampling import Samples
from tav_core.files import write_tensors
from tav_core.inflate import inflate
from tav_core.jobs.base import ensure_prompt, unseen_words
from tav_core.jobs.control_choice import ControlChoice, control_images
from tav_core.jobs.editing import selection_as_tuned
from tav_core.jobs.kept_inversion import FORMAT as INVERSION
from tav_core.jobs.kept_inversion import Inversion
from tav_core.jobs.mask_choice import MaskChoice
from tav_core.jobs.names import file_names
from tav_core.jobs.original_weights import load_weights
from tav_core.jobs.selection import Selection
from tav_core.layout import align
from tav_core.masks import latent_mask
from tav_core.resume import FORMAT as STATE
from tav_core.resume import TuneState, damage_in, losses_kept_in, steps_kept_in
from tav_core.tuned import FORMAT as TUNED
from tav_core.tuned import TunedWeights
from tav_core.tuned_facts import missing_names, sibling_note
from tav_core.video.read import read_frames
from tests.cli.test_original_config import CONFIG
from tests.fuzz import material
from tests.fuzz.mutations import (
    DEEP,
    as_json,
    odd_value,
    of_boxes,
    of_bytes,
    of_header,
    of_tensor,
    of_tensors,
    of_text,
    of_value,
    times,
)

Reader = Callable[[Random, Path], Callable[[], object]]
READERS: dict[str, Reader] = {}
PROMPT = "a (red:1.3) ball is moving BREAK on the grass, [cartoon] style, embedding:sks"


def reader(function: Reader) -> Reader:
    READERS[function.__name__] = function
    return function


def selected(rng: Random) -> dict:
    return {
        "size": rng.choice((8, 64, (64, 32))),
        "start": rng.choice((0, 0, 1, 5)),
        "stride": rng.choice((0, 0, 1, 2)),
        "fit": rng.choice(("crop", "pad", "stretch")),
        "at_most": rng.random() < 0.8,
    }


@reader
def clip(rng: Random, folder: Path) -> Callable[[], object]:
    suffix = rng.choice([*material.FORMATS, "webp"])
    data = material.webp() if suffix == "webp" else material.clip(suffix)
    boxed = suffix in ("mp4", "mov") and rng.random() < 0.5
    change = (lambda rng, data: of_boxes(rng, data, material.BOXES)) if boxed else of_bytes
    path = folder / f"clip.{suffix if rng.random() < 0.9 else rng.choice(list(material.FORMATS))}"
    path.write_bytes(times(rng, change, data, 4))
    count, settings = rng.choice((1, 3, 6)), selected(rng)
    return lambda: read_frames(path, count, **settings)


@reader
def image_folder(rng: Random, folder: Path) -> Callable[[], object]:
    names = [f"{number}." for number in range(3)]
    if rng.random() < 0.3:
        names[rng.randrange(3)] = rng.choice(("²1.", "1" * 200 + ".", " .", "ｱ９.", "%d.", "a\nb.", "-1.", "٣."))
    broken = rng.randrange(3)
    for number, name in enumerate(names):
        suffix = rng.choice(list(material.PICTURES))
        data = material.picture(suffix, *((64, 48) if rng.random() < 0.9 else (48, 64)))
        (folder / f"{name}{suffix}").write_bytes(times(rng, of_bytes, data) if number == broken else data)
    count, settings = rng.choice((1, 2, 3)), selected(rng)
    return lambda: read_frames(folder, count, **settings)


@reader
def config(rng: Random, folder: Path) -> Callable[[], object]:
    path, kind = folder / "config.yaml", rng.randrange(4)
    if kind == 0:
        path.write_bytes(times(rng, of_bytes, CONFIG.encode()))
    elif kind == 1:
        path.write_text(times(rng, of_text, CONFIG), encoding="utf-8", errors="surrogatepass")
    elif kind == 2:
        place = CONFIG.index("\n", rng.randrange(len(CONFIG) - 1))
        path.write_text(CONFIG[:place] + rng.choice(SNIPPETS) + CONFIG[place:], encoding="utf-8")
    else:
        content = times(rng, of_value, yaml.safe_load(CONFIG))
        text = yaml.safe_dump(content) if rng.random() < 0.5 else as_json(content)
        path.write_text(text.replace(DEEP, "[" * 3000 + "]" * 3000), encoding="utf-8")
    given = {} if rng.random() < 0.5 else {"checkpoint": MINIATURE, "output": folder / "out"}
    return lambda: read_config(path, **given)


BOMB = "\nb0: &b0 [x, x, x, x, x, x, x, x, x]" + "".join(
    f"\nb{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]" for n in range(1, 9)
)
SNIPPETS = (
    BOMB, BOMB + "\nprompt: *b8", BOMB + "\noutput_dir: *b8", BOMB + "\nseed: *b8", BOMB + "\ntrainable_modules: *b8",
    "\nx: !!python/object/apply:os.system [true]", "\n\t- a", "\nseed: 0x_", "\nseed: 190:20:30", "\nseed: 2001-01-01",
    "\n? [a]\n: b", "\n<<: *missing", "\n<<: [1]", "\n---\na: 1", "\n%YAML 9.9", "\nseed: !!int x",
    "\nseed: !!binary =", "\nseed: !!set {1}", "\nseed: &s [*s]", "\n1: 2", "\nnull: 1", "\n? {a: 1}\n: 2",
    "\nseed: .inf", "\nseed: -.nan", "\nseed: 1" + "0" * 5000, "\noutput_dir: ''", '\noutput_dir: "a\\0b"',
    '\nprompt: "\\ud800"', "\nseed: !!float _", "\noutput_dir: " + "x" * 300,
)  # fmt: skip


def stored(rng: Random, path: Path, kind: str, tensors: dict, metadata: dict) -> Path:
    """A file of ours: made of changed parts, with a checksum that is right, or with changed bytes."""
    how = rng.randrange(4)
    if how < 2:
        tensors, metadata = times(rng, lambda rng, both: of_tensors(rng, *both), (tensors, metadata))
    kind = kind if rng.random() < 0.9 else rng.choice(("", "x", "tune-a-video/99", "tune-a-video/²", kind + "0"))
    write_tensors(path, tensors, kind, metadata)
    if DEEP in str(metadata):
        path.write_bytes(path.read_bytes().replace(DEEP.encode(), b"[" * len(DEEP)))
    if how > 1:
        change = of_header if how == 2 else of_bytes
        path.write_bytes(times(rng, change, path.read_bytes()) if how == 3 else change(rng, path.read_bytes()))
    return path


@reader
def state(rng: Random, folder: Path) -> Callable[[], object]:
    layer = torch.nn.Linear(4, 4)
    parameters = {"layer.weight": layer.weight, "layer.bias": layer.bias}
    tensors = {"generator": torch.Generator().get_state()}
    for name, parameter in parameters.items():
        zeros = torch.zeros_like(parameter)
        tensors |= {f"parameter.{name}": zeros, f"exp_avg.{name}": zeros.clone(), f"exp_avg_sq.{name}": zeros.clone()}
        tensors[f"step.{name}"] = torch.tensor(2.0)
    metadata = {"run": "run", "step": 2, "losses": [0.1, 0.2], "grad_norms": [1.0, 1.0], "scaler": {}}
    path = stored(rng, folder / "state.safetensors", STATE, tensors, metadata)

    def resume() -> None:
        if damage_in(path) is None:  # as the jobs do, which then start again
            steps_kept_in(path)
            losses_kept_in(path)
        optimizer = torch.optim.AdamW(parameters.values())
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        with TuneState(parameters, optimizer, scaler, torch.Generator(), keep_in=path, run="run"):
            layer(torch.ones(4)).sum().backward()
            optimizer.step()

    return resume


@reader
def tuned_weights(rng: Random, folder: Path) -> Callable[[], object]:
    path = stored(rng, folder / "tuned.safetensors", TUNED, *material.tuned())
    return lambda: use_tuned(path)


def use_tuned(path: Path) -> None:
    """All that is done with a file of tuned weights before anything is sampled."""
    weights = TunedWeights.load(path)
    facts = weights.facts
    for options in ([], ["--json"]):
        shell("info", str(path), *options)
    json.dumps(facts.as_metadata())
    sibling_note(facts, "sd", "1" * 64)
    missing_names(facts.loras, {"b"}, "file")
    missing_names(facts.controls, {"b"}, "network")
    selection = selection_as_tuned(Path("clip.mp4"), facts, {})
    selection.as_metadata()
    ensure_prompt(facts.prompt if isinstance(facts.prompt, str) else "a", "The prompt")
    weights.apply(inflate(copy.deepcopy(material.inflated().unet), facts.inflation))


def shell(*arguments: str) -> None:
    """A command of `tav`; raises what would be a traceback."""
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception


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
        tensors = material_of(data)
        tensors, _ = times(rng, lambda rng, both: of_tensors(rng, both[0], {}), (tensors, {}))
        data = material.safetensors(tensors)
    else:
        data = of_header(rng, data) if rng.random() < 0.6 else of_bytes(rng, data)
    path.write_bytes(data)
    return lambda: use_checkpoint(path)


def material_of(data: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    return load(data)


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


@reader
def inversion(rng: Random, folder: Path) -> Callable[[], object]:
    tensors = {"trajectory": torch.zeros(4, 1, 4, 2, 8, 8), "reconstruction": torch.zeros(1, 4, 2, 8, 8)}
    path = stored(rng, folder / "inversion.safetensors", INVERSION, tensors, {"key": "key"})
    return lambda: (found := Inversion.load(path, "key")) and found.noise


@reader
def samples(rng: Random, folder: Path) -> Callable[[], object]:
    tensors = {"edits": torch.zeros(2, 4, 2, 8, 8), "reconstruction": torch.zeros(1, 4, 2, 8, 8)}
    path = stored(rng, folder / "samples.safetensors", SAMPLES, tensors, {"key": "key", "seconds": 1.0})
    return lambda: Samples.load(path, "key")


@reader
def manifest(rng: Random, folder: Path) -> Callable[[], object]:
    content = {
        "selection": {"clip": "a.mp4", "frames": 3, "size": [64, 48], "start": 0, "stride": 1, "fit": "crop"},
        "edits": [{"path": "a.mp4", "prompt": "a cat"}, {"path": "b.mp4", "prompt": "a dog"}],
    }
    (folder / "a.mp4").write_bytes(material.clip("mp4"))
    text = as_json(times(rng, of_value, content))
    material.replaced(folder / "manifest.json", text if rng.random() < 0.8 else times(rng, of_bytes, text.encode()))

    def read() -> None:
        for video in edited_videos(folder):
            ensure_prompt(video.prompt, "The prompt")
            read_frames(video.path, video.num_frames, size=video.size)

    return read


@reader
def mask(rng: Random, folder: Path) -> Callable[[], object]:
    (folder / "clip.mp4").write_bytes(material.clip("mp4"))
    selection = Selection(folder / "clip.mp4", rng.choice((1, 3, 6)), rng.choice((64, (64, 48))))
    if rng.random() < 0.3:
        given = of_tensor(rng, torch.rand(3, 48, 64))
        frames, size, grow = rng.choice((1, 3, 5)), rng.choice(((8, 6), (8, 8))), rng.choice((0, 1, 600))
        return lambda: latent_mask(given, frames, size, grow)
    suffix = rng.choice(list(material.PICTURES))
    data = material.picture(suffix, *rng.choice(((64, 48), (64, 64), (128, 96))))
    path = folder / f"mask.{suffix}"
    path.write_bytes(times(rng, of_bytes, data) if rng.random() < 0.7 else data)
    if rng.random() < 0.3:
        return lambda: control_images(path, selection)
    return lambda: MaskChoice(path).read(selection)


@reader
def prompt(rng: Random, folder: Path) -> Callable[[], object]:
    one, other = (times(rng, of_text, PROMPT) for _ in range(2))

    def read() -> None:
        opened = material.miniature()
        ensure_prompt(one, "The prompt")
        unseen_words(opened, [one])
        opened.encode_prompt(one)
        align(opened.tokens(one), opened.tokens(other))
        opened.tokens(one).find(opened.tokens(other))
        assert all(len(name.encode()) < 255 for name in file_names([one, other, one]))

    return read


@reader
def options(rng: Random, folder: Path) -> Callable[[], object]:
    text = times(rng, of_text, rng.choice(("controlnet:pose:0.8:0:1", "WORD:ball", "style.safetensors:0.8", "512x320")))
    kind = rng.randrange(4)
    if kind == 0:
        return lambda: ControlChoice.parse(text, "pose.mp4").as_metadata()
    if kind == 1:
        return lambda: MaskChoice.parse(text).as_metadata()
    if kind == 2:
        return lambda: Lora.parse(text).as_metadata()
    (folder / "clip.mp4").write_bytes(material.clip("mp4"))
    return lambda: read_frames(folder / "clip.mp4", 3, size=size_of(text))
