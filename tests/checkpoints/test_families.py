"""Each family in each file layout: opened, tuned, saved, and in a fresh process loaded, inverted and sampled."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from diffusers import ControlNetModel, DDPMScheduler
from safetensors.torch import load_file, save_file

from tav_core import TuneConfig, TunedWeights, load_checkpoint, tune
from tav_core.control import residuals
from tav_core.jobs.base import open_base
from tests.checkpoints.test_lora import UNETS, attentions, change, kohya_style
from tests.fresh_edit import WORDS, edited, opened
from tests.host.assets import drawn
from tests.networks import video
from tests.random_checkpoint import write_random_checkpoint

ROOT = Path(__file__).parents[2]
SIZES = {"sd1": ("tiny", None), "sd2-base": ("tiny-sd2", "epsilon"), "sd2-768": ("tiny-sd2", "v_prediction")}


def rewritten(path, output, change_tensor):
    save_file({name: change_tensor(tensor) for name, tensor in load_file(path).items()}, output)
    return output


def as_fp8(tensor):
    return tensor.to(torch.float8_e4m3fn) if tensor.ndim > 1 and tensor.is_floating_point() else tensor


def folder_of_pickles(path, output):
    """As folders of 2023 are: .bin alone."""
    shutil.copytree(path, output)
    for file in output.rglob("*.safetensors"):
        name = "pytorch_model.bin" if file.parent.name == "text_encoder" else "diffusion_pytorch_model.bin"
        torch.save(load_file(file), file.with_name(name))
        file.unlink()
    return output


def single(path, output):
    return path.with_suffix(".safetensors")


LAYOUTS = {
    "single file, fp16": single,
    "single file, fp32": lambda path, output: rewritten(
        single(path, output), output.with_suffix(".safetensors"), lambda t: t.float() if t.is_floating_point() else t
    ),
    "single file, bf16": lambda path, output: rewritten(
        single(path, output), output.with_suffix(".safetensors"), lambda t: t.bfloat16() if t.is_floating_point() else t
    ),
    "single file, fp8": lambda path, output: rewritten(
        single(path, output), output.with_suffix(".safetensors"), as_fp8
    ),
    "folder": lambda path, output: path,
    "folder of pickles": folder_of_pickles,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Both tiny sizes, as a file and as a folder beside it."""
    folder = tmp_path_factory.mktemp("families")
    for size in ("tiny", "tiny-sd2"):
        write_random_checkpoint(folder / f"{size}.safetensors", size=size)
        write_random_checkpoint(folder / size, size=size, layout="diffusers")
    return folder


def tuned(parts, unet, controls=()):
    embeds = parts.encode_prompt(WORDS)
    under = (lambda noisy, t: residuals(controls, noisy, t, embeds)) if controls else None
    settings = TuneConfig(num_steps=2, learning_rate=1e-3)
    tune(unet, video(frames=3), embeds, DDPMScheduler.from_config(parts.scheduler.config), settings, control=under)


class Edits(NamedTuple):
    """A clip's noise and an edit: before tuning, after it in one process, and from the files in a fresh process."""

    untuned: dict
    here: dict
    there: dict


# Each family and each layout; that all layouts of a family are the same network is tested below.
CASES = {
    "sd1": ("single file, fp16", "single file, fp8"),
    "sd2-base": ("folder", "single file, fp32"),
    "sd2-768": ("folder of pickles", "single file, bf16"),
}


@pytest.fixture(scope="module")
def edits(written, tmp_path_factory) -> dict[str, Edits]:
    """Of each of CASES, and of each size with a LoRA and a ControlNet; one fresh process for all."""
    folder, found, jobs = tmp_path_factory.mktemp("edits"), {}, []
    cases = {
        f"{family}, {layout}": (
            LAYOUTS[layout](written / SIZES[family][0], folder / f"{family}-{layout}"),
            {"prediction_type": SIZES[family][1]},
        )
        for family, layouts in CASES.items()
        for layout in layouts
    }
    cases |= {f"{size}, LoRA and ControlNet": under_both(written / size, folder, unet) for size, unet in UNETS.items()}
    for number, (name, (checkpoint, options)) in enumerate(cases.items()):
        weights, output = folder / f"{number}-tuned.safetensors", folder / f"{number}-edited.safetensors"
        found[name] = tuned_and_edited(checkpoint, weights, **options), output
        jobs.append([str(checkpoint), str(weights), str(output), options])
    command = [sys.executable, "-m", "tests.fresh_edit", json.dumps(jobs)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: Edits(*here, load_file(output)) for name, (here, output) in found.items()}


def tuned_and_edited(checkpoint, weights, **options) -> tuple[dict, dict]:
    parts, unet, controls, base = opened(checkpoint, **options)
    untuned = edited(parts, unet, controls)
    tuned(parts, unet, controls)
    TunedWeights.from_unet(unet, base_fingerprint=base.fingerprint).save(weights)
    return untuned, edited(parts, unet, controls)


def under_both(checkpoint, folder, unet) -> tuple[Path, dict]:
    parts = load_checkpoint(checkpoint)
    lora, control = folder / f"{checkpoint.name}-lora.safetensors", folder / f"{checkpoint.name}-control"
    save_file(kohya_style(change(parts, attentions(parts)), unet), lora)
    network = ControlNetModel.from_unet(parts.unet)
    network.load_state_dict(drawn(network.state_dict(), seed=3))
    network.save_pretrained(control)
    return checkpoint, {"lora": f"{lora}:0.6", "control": str(control)}


NAMES = [f"{family}, {layout}" for family, layouts in CASES.items() for layout in layouts]


@pytest.mark.parametrize("case", [*NAMES, *(f"{size}, LoRA and ControlNet" for size in UNETS)])
def test_what_was_tuned_and_saved_is_the_same_in_a_fresh_process(edits, case):
    for name, tensor in edits[case].here.items():
        torch.testing.assert_close(edits[case].there[name], tensor, atol=1e-4, rtol=1e-4)
        assert (tensor - edits[case].untuned[name]).abs().max() > 1e-3


@pytest.mark.parametrize(("size", "family"), [("tiny", "sd1"), ("tiny-sd2", "sd2")])
def test_each_layout_holds_the_same_network_of_a_known_family(written, tmp_path, size, family):
    expected = load_checkpoint(written / size)
    for number, (name, layout) in enumerate(LAYOUTS.items()):
        opened = load_checkpoint(layout(written / size, tmp_path / str(number)))
        assert opened.family == family
        relative = {"single file, fp8": 2**-4, "single file, bf16": 2**-8}.get(name, 0.0)  # half of the last place
        rounding = {"atol": 2**-9 if relative else 0.0, "rtol": relative, "msg": name}
        theirs = expected.unet.state_dict()
        for key, tensor in opened.unet.state_dict().items():
            torch.testing.assert_close(tensor, theirs[key], **rounding)


def test_tuning_a_half_precision_file_happens_in_full_precision(written):
    parts, unet, *_ = opened(written / "tiny.safetensors")
    tuned(parts, unet)
    assert {parameter.dtype for parameter in unet.trainable_parameters().values()} == {torch.float32}


def in_fp8(tensors, suffix: str, **others) -> dict:
    """As ComfyUI's fp8 files: a factor beside each weight, and further tensors of each layer."""
    scaled = {}
    for name, tensor in tensors.items():
        if name.endswith(".weight") and tensor.ndim > 1 and name.startswith(("model.", "cond_stage_model.")):
            factor, layer = tensor.float().abs().max() / 448, name.removesuffix("weight")
            scaled |= {name: (tensor.float() / factor).to(torch.float8_e4m3fn), layer + suffix: factor}
            scaled |= {layer + other: value.clone() for other, value in others.items()}
        else:
            scaled[name] = tensor
    return scaled


def quantised(kind: str) -> torch.Tensor:
    return torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)


@pytest.mark.parametrize("today", [False, True])
def test_fp8_with_scales_opens_as_the_weights_that_it_stands_for(written, tmp_path, today):
    tensors, path = load_file(written / "tiny.safetensors"), tmp_path / "scaled.safetensors"
    if today:
        save_file(in_fp8(tensors, "weight_scale", comfy_quant=quantised("float8_e4m3fn")), path)
    else:
        save_file(in_fp8(tensors, "scale_weight") | {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}, path)
    plain, opened8 = (load_checkpoint(each) for each in (written / "tiny.safetensors", path))
    for network in ("unet", "text_encoder"):
        theirs = getattr(plain, network).state_dict()
        for name, tensor in getattr(opened8, network).state_dict().items():
            assert (tensor - theirs[name]).abs().max() <= theirs[name].abs().max() / 14, name  # 3 bits of mantissa


@pytest.mark.parametrize(
    ("kind", "message"),
    [(quantised("nvfp4"), "quantised as 'nvfp4'"), (torch.zeros(3, dtype=torch.uint8), "is damaged")],
)
def test_other_quantisations_are_named(written, tmp_path, kind, message):
    tensors = in_fp8(load_file(written / "tiny.safetensors"), "weight_scale", comfy_quant=kind)
    save_file(tensors, tmp_path / "scaled.safetensors")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "scaled.safetensors")


def test_stable_diffusion_2_in_the_layout_of_later_tools_opens(written, tmp_path):
    """Of SD-Turbo and others: the text encoder under `conditioner.embedders.0`."""
    old, new = "cond_stage_model.model.", "conditioner.embedders.0.model."
    tensors = {name.replace(old, new): tensor for name, tensor in load_file(written / "tiny-sd2.safetensors").items()}
    save_file(tensors, tmp_path / "turbo.safetensors")
    one, other = (load_checkpoint(path) for path in (written / "tiny-sd2.safetensors", tmp_path / "turbo.safetensors"))
    assert other.family == "sd2"
    torch.testing.assert_close(other.encode_prompt("a cat").embeds, one.encode_prompt("a cat").embeds)


def test_what_a_checkpoint_predicts_can_be_given(written):
    by_itself = open_base(written / "tiny-sd2")
    velocity = open_base(by_itself, prediction_type="v_prediction")
    kinds = [base.checkpoint.scheduler.config.prediction_type for base in (by_itself, velocity)]
    assert kinds == ["epsilon", "v_prediction"]
    assert velocity.predicting("epsilon").checkpoint.unet is velocity.checkpoint.unet
