"""What the nodes read from outside: files in ComfyUI's folders, kept runs, the graph, and values that come over links.

Needs a ComfyUI. The pack has its own copy of tav_core there; see tests/host/inprocess.py.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import torch

from tests.fuzz import material
from tests.fuzz.mutations import odd_value, of_boxes, of_tensor, of_text, of_value, times
from tests.fuzz.own_files import stored
from tests.fuzz.registry import reader
from tests.fuzz.texts import PROMPT
from tests.host.inprocess import core, executed, miniature, pack

GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd.safetensors"}},
    "2": {
        "class_type": "LoraLoader",
        "inputs": {"model": ["1", 0], "lora_name": "a.safetensors", "strength_model": 0.8},
    },
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a man is skiing", "clip": ["1", 1]}},
    "4": {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "pose.safetensors"}},
    "5": {"class_type": "LoadVideoFrames", "inputs": {"video": "pose.mp4", "start": 0, "stride": 0, "fit": "crop"}},
    "6": {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {"positive": ["3", 0], "control_net": ["4", 0], "image": ["5", 0], "strength": 1.0},
    },
    "7": {"class_type": "OneShotTune", "inputs": {"model": ["2", 0], "positive": ["6", 0], "latents": ["8", 0]}},
    "8": {"class_type": "VAEEncode", "inputs": {"pixels": ["5", 0], "vae": ["1", 2]}},
}
COUNTS = (0, 1, 3, 8, -1, 64, 2**31, 10**9, 2**63)


def in_folder(folder: Path) -> None:
    """Makes this ComfyUI's folders: input, models, output, and where tuned weights are looked for."""
    paths = core("folder_paths")
    paths.models_dir = str(folder / "models")
    paths.set_output_directory(str(folder / "output"))
    paths.set_input_directory(str(folder))
    paths.set_temp_directory(str(folder / "temp"))
    paths.folder_names_and_paths["tune_a_video"] = ([str(folder)], {".safetensors"})
    paths.filename_list_cache.clear()


@reader
def node_load_video_frames(rng: Random, folder: Path) -> Callable[[], object]:
    data = material.clip("mp4")
    changed = rng.random() < 0.3
    (folder / "clip.mp4").write_bytes(
        times(rng, lambda r, d: of_boxes(r, d, material.BOXES), data) if changed else data
    )
    name = "clip.mp4" if rng.random() < 0.6 else times(rng, of_text, "sub/clip.mp4 [input]")
    numbers = [rng.choice(COUNTS) if rng.random() < 0.4 else usual for usual in (3, 0, 0, 64, 64)]
    fit, strict = rng.choice(("crop", "pad", "stretch", "", "x" * 1000)), rng.random() < 0.5

    def read() -> None:
        in_folder(folder)
        node = pack("nodes.load_video_frames").LoadVideoFrames
        if node.validate_inputs(name) is True:
            node.fingerprint_inputs(name)
            executed(node, name, *numbers, fit, None, strict)

    return read


@cache
def weights() -> tuple[dict[str, torch.Tensor], dict]:
    """Tuned weights for the miniature."""
    parity = pack("nodes.host.weights"), pack("tav_core.inflate")
    unet = parity[1].inflate(parity[0].diffusers_unet(miniature().model, torch.device("cpu")))
    tensors = {name: torch.full_like(p.detach(), 0.01) for name, p in unet.trainable_parameters().items()}
    return tensors, material.tuned()[1] | {"family": "sd1"}


@reader
def node_load_tuned_weights(rng: Random, folder: Path) -> Callable[[], object]:
    stored(rng, folder / "tuned.safetensors", "tune-a-video/1", *weights())
    name = "tuned.safetensors" if rng.random() < 0.8 else times(rng, of_text, "sub/tuned.safetensors")
    strength = rng.choice((1.0, 0.0, 0.5, 2.0, -1.0, 1e9))

    def read() -> None:
        in_folder(folder)
        node = pack("nodes.load_tuned_weights").LoadTunedWeights
        node.fingerprint_inputs(name)
        executed(node, miniature().model, name, strength)

    return read


@reader
def node_save_tuned_weights(rng: Random, folder: Path) -> Callable[[], object]:
    prefix = times(rng, of_text, "cats/jump")

    def read() -> None:
        in_folder(folder)
        with pack("nodes.host.weights_folder").unused_file(prefix) as path:
            assert path.resolve().is_relative_to(folder.resolve())

    return read


@reader
def graph(rng: Random, folder: Path) -> Callable[[], object]:
    nodes = times(rng, of_value, GRAPH)
    nodes = nodes if isinstance(nodes, dict) else GRAPH
    # the host hands out no graph whose nodes are no tables of inputs
    nodes = {name: node for name, node in nodes.items() if isinstance(node, dict)}
    nodes = {name: node for name, node in nodes.items() if isinstance(node.get("inputs", {}), dict)}

    def read() -> None:
        module = pack("nodes.host.graph")
        for find in (module.prompt_behind, module.loras_behind, module.controls_behind, module.clip_behind):
            find(nodes, "7")

    return read


@reader
def kept_runs(rng: Random, folder: Path) -> Callable[[], object]:
    """Runs of One-Shot Tune in which a file was damaged or made up."""
    settings, inputs = {"base": "0", "config": {"seed": 0}}, {"latents": torch.ones(2, 4, 8, 8)}
    runs, work = pack("nodes.host.runs"), folder / "runs"
    run = runs.open_run(work, settings, inputs)
    tensors, metadata = material.tuned()
    kinds = {
        "inputs": (run.folder / "inputs.safetensors", runs.FORMAT, inputs, settings),
        "weights": (run.folder / "weights-000002.safetensors", "tune-a-video/1", tensors, metadata | {"losses": [1.0]}),
        "state": (
            run.folder / "state.safetensors",
            "tune-a-video/run/1",
            {"generator": torch.Generator().get_state()},
            {"run": run.name, "step": 1, "losses": [1.0], "grad_norms": [1.0], "scaler": {}},
        ),
    }
    stored(rng, *kinds[rng.choice(list(kinds))])
    if rng.random() < 0.2:
        (work / rng.choice(("²", "a" * 200, "%d"))).mkdir()

    def read() -> None:
        again = runs.open_run(work, settings, inputs)
        again.result(2)
        again.state(2)
        runs.make_room(work, again.folder)
        assert again.steps >= 0

    return read


@reader
def latent(rng: Random, folder: Path) -> Callable[[], object]:
    """A LATENT that other nodes have changed."""
    given = {
        "samples": torch.ones(2, 4, 8, 8) * 14,
        "tav_timestep": 981,
        "tav_noise_level": 14.0,
        "tav_trajectory": torch.ones(3, 2, 4, 8, 8),
        "tav_timesteps": [481, 981],
    }
    for _ in range(rng.randint(1, 2)):
        key = rng.choice(list(given))
        value = given[key]
        if rng.random() < 0.1:
            del given[key]
            given["samples"] = given.get("samples", torch.zeros(2, 4, 8, 8))
        else:
            given[key] = (
                of_tensor(rng, value) if torch.is_tensor(value) else rng.choice(([], [-1, 2000], None, -1, 5000))
            )

    def read() -> None:
        latents, model = pack("nodes.host.latents"), miniature().model
        for check in (
            lambda: latents.frames_of(given, least=2),
            lambda: latents.check_clean(given, model),
            lambda: latents.check_samplable(given, model),
            lambda: latents.path_of(given, model, "This"),
        ):
            try:
                check()
            except pack("tav_core.errors").TavError:
                continue

    return read


@reader
def words(rng: Random, folder: Path) -> Callable[[], object]:
    one, other = (times(rng, of_text, PROMPT) for _ in range(2))
    snapshots = times(rng, of_text, "100, 200 300")

    def read() -> None:
        tokens_of, clip = pack("nodes.host.words").tokens_of, miniature().clip
        tokens_of(clip, one).find(tokens_of(clip, other))
        pack("nodes.one_shot_tune")._steps_in(snapshots)

    return read


@reader
def settings(rng: Random, folder: Path) -> Callable[[], object]:
    """Numbers that come over links, which the host does not check."""
    numbers = {name: rng.choice((*COUNTS, 0.5, float("nan"), float("inf"), 1e-30)) for name in ("steps", "rate", "eta")}
    odd = odd_value(rng)

    def read() -> None:
        tune, steps, sockets = pack("tav_core.tune"), pack("tav_core.steps"), pack("nodes.sockets")
        sockets.checked(steps.check_steps, numbers["steps"])
        tune.TuneConfig(num_steps=numbers["steps"], learning_rate=numbers["rate"])
        tune.TuneConfig(mixed_precision=odd if isinstance(odd, str) else "no")

    return read
