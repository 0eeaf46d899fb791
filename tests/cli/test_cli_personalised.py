"""The shell with LoRAs, control and results of the original: whole runs, and every error message."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, T2IAdapter
from safetensors.torch import save_file

from tav_core import TunedWeights, load_checkpoint, read_frames
from tav_core.checkpoints.lora import Lora, fuse_loras
from tav_core.jobs.control_choice import control_images
from tav_core.jobs.selection import Selection
from tests.checkpoints.test_lora import attentions, change, kohya_style
from tests.cli.test_cli import assert_refused, editing, files, manifest, small_config, stopped, tav, tuning  # noqa: F401  `files` is a fixture
from tests.cli.test_evaluate import evaluating
from tests.clips import broken, encode, moving
from tests.host.assets import drawn
from tests.original_folder import write_original
from tests.random_checkpoint import TINY_UNET, write_random_checkpoint

CONTROLS = {"controlnet": "pose", "t2i-adapter": "depth"}


@pytest.fixture(scope="module")
def folder(files):  # noqa: F811
    """The clip and checkpoint of test_cli, with a LoRA, a ControlNet, a T2I-Adapter, and images for both."""
    checkpoint = load_checkpoint(files / "sd.safetensors")
    save_file(kohya_style(change(checkpoint, attentions(checkpoint)), TINY_UNET), files / "lora.safetensors")
    networks = {
        "pose": ControlNetModel.from_unet(checkpoint.unet),
        "depth": T2IAdapter(channels=[32, 64], num_res_blocks=2),
    }
    for seed, (name, network) in enumerate(networks.items()):
        network.load_state_dict(drawn(network.state_dict(), seed))
        network.save_pretrained(files / name)
    squares = np.zeros((10, 64, 96, 3), np.uint8)
    for number, picture in enumerate(squares):
        picture[20:44, 8 * number : 8 * number + 20] = 255
    encode(files / "poses.mp4", list(squares), fps=8)
    encode(files / "few.mp4", list(squares[:3]), fps=8)
    encode(files / "chosen.mp4", [picture[:, :64] for picture in squares[:4]], fps=8)
    encode(files / "wide.mp4", [picture[:16] for picture in squares], fps=8)
    encode(files / "depth.mp4", list(squares[::-1]), fps=8)
    return files


def under(folder, *kinds, strength=0.7, pictures=None):
    """The options that put controls over a run."""
    words = []
    for kind in kinds:
        words += ["--control", f"{kind}:{folder / CONTROLS[kind]}:{strength}"]
        words += [
            "--control-pictures",
            folder / (pictures or {"pose": "poses.mp4", "depth": "depth.mp4"}[CONTROLS[kind]]),
        ]
    return words


@pytest.fixture(scope="module")
def controlled(folder):
    """The folder, with weights tuned under both controls and a LoRA."""
    words = [*tuning(folder, folder / "controlled.safetensors"), "--lora", f"{folder / 'lora.safetensors'}:0.5"]
    done = tav(*words, *under(folder, *CONTROLS))
    assert done.code == 0, done.err
    return folder


def test_a_clip_is_tuned_on_and_edited_with_a_lora_under_two_controls(controlled, tmp_path):
    facts = TunedWeights.load(controlled / "controlled.safetensors").facts
    assert facts.loras == [{"file": "lora.safetensors", "strength": 0.5}]
    assert [(c["kind"], c["network"], c["pictures"], c["strength"]) for c in facts.controls] == [
        ("controlnet", "pose", "poses.mp4", 0.7),
        ("t2i-adapter", "depth", "depth.mp4", 0.7),
    ]
    over = ["--lora", f"{controlled / 'lora.safetensors'}:0.5"]
    words = editing(controlled, tmp_path / "all", "a cube", weights=controlled / "controlled.safetensors")
    edited = tav(*words, *over, *under(controlled, *CONTROLS))
    assert edited.code == 0, edited.err
    assert "Warning" not in edited.err
    assert manifest(tmp_path / "all")["loras"] == facts.loras
    assert manifest(tmp_path / "all")["controls"] == facts.controls
    assert "Reusing the inversion" in tav(*words, *over, *under(controlled, *CONTROLS)).err

    frames = {"all": read_frames(tmp_path / "all" / "a-cube.mp4", 4, size=64).frames}
    for name, fewer in {"no lora": under(controlled, *CONTROLS), "one": over + under(controlled, "controlnet")}.items():
        words = editing(controlled, tmp_path / name, "a cube", weights=controlled / "controlled.safetensors")
        said = tav(*words, *fewer)
        assert "Reusing the inversion" not in said.err
        assert "which this edit does not use; add --" in said.err
        frames[name] = read_frames(tmp_path / name / "a-cube.mp4", 4, size=64).frames
        assert (frames[name] - frames["all"]).abs().mean() > 1e-3


def test_info_prints_the_loras_and_controls_of_a_file(controlled):
    shown = tav("info", controlled / "controlled.safetensors").out
    assert "file lora.safetensors, strength 0.5\n" in shown
    assert "kind controlnet, network pose, pictures poses.mp4, strength 0.7, start 0, end 1; kind t2i-adapter" in shown
    assert "sd.safetensors" in shown


def test_tuned_weights_hold_the_tuning_and_neither_the_lora_nor_its_fingerprint(controlled, tmp_path):
    weights = TunedWeights.load(controlled / "controlled.safetensors")
    queries = [name for name in weights.tensors if ".to_q." in name and "temp" not in name]
    largest = max(weights.tensors[name].abs().max().item() for name in queries)
    assert 0 < largest < 2e-4  # three steps of 3e-5; the LoRA is larger by far
    assert tav(*tuning(controlled, tmp_path / "plain.safetensors")).code == 0
    plain = TunedWeights.load(tmp_path / "plain.safetensors")
    assert plain.facts.base_fingerprint == weights.facts.base_fingerprint


def test_an_interrupted_run_under_control_resumes_to_the_same_weights(controlled, tmp_path):
    over = ["--lora", f"{controlled / 'lora.safetensors'}:0.5", *under(controlled, *CONTROLS)]
    words = [*tuning(controlled, tmp_path / "parts.safetensors"), *over]
    stopped(words)
    assert "Resuming at step 2 of 3" in tav(*words).err
    whole, parts = (
        TunedWeights.load(f / n) for f, n in ((controlled, "controlled.safetensors"), (tmp_path, "parts.safetensors"))
    )
    assert all(torch.equal(parts.tensors[name], tensor) for name, tensor in whole.tensors.items())
    assert tav(*words).err.endswith("This run is already finished; there is nothing left to do.\n")


@pytest.mark.parametrize("changed", ["lora", "strength", "pictures", "none"])
def test_another_lora_or_control_is_another_run(controlled, changed):
    lora, control = ["--lora", f"{controlled / 'lora.safetensors'}:0.5"], under(controlled, *CONTROLS)
    words = {
        "lora": [*lora[:-1], f"{lora[-1][:-3]}0.6", *control],
        "strength": [*lora, *under(controlled, *CONTROLS, strength=0.8)],
        "pictures": [*lora, *control[:-1], controlled / "poses.mp4"],
        "none": [],
    }[changed]
    refused = tav(*tuning(controlled, controlled / "controlled.safetensors"), *words)
    assert refused.code == 2
    assert re.search("already holds (tuned )?weights of another run", refused.err)


def test_control_images_may_be_one_per_frame_of_the_clip_or_of_the_chosen_ones_or_one_for_all(folder, tmp_path):
    (tmp_path / "folder").mkdir()
    for number in range(4):
        cv2.imwrite(str(tmp_path / "folder" / f"{number}.png"), np.full((128, 128, 3), 60 * number, np.uint8))
    cv2.imwrite(str(tmp_path / "one.png"), np.full((64, 64, 3), 128, np.uint8))
    chosen = Selection(folder / "ball.mp4", frames=4, size=64)
    for images, count in (("poses.mp4", 4), ("chosen.mp4", 4), (tmp_path / "folder", 4), (tmp_path / "one.png", 1)):
        assert control_images(folder / images, chosen, []).shape == (count, 64, 64, 3)
    greys = control_images(tmp_path / "folder", chosen, []).float().mean((1, 2, 3))
    assert greys.tolist() == pytest.approx([0, 60, 120, 180])
    words = tuning(folder, tmp_path / "a.safetensors", steps=1)
    assert tav(*words, *under(folder, "controlnet", pictures=tmp_path / "one.png")).code == 0


def test_damage_in_control_images_and_masks_is_told_once(controlled, tmp_path):
    frames = [frame[:64, :96] for frame in moving(10)]
    path = encode(tmp_path / "poses.avi", frames, codec="mpeg4", options={"g": "10", "q": "3"})
    path.write_bytes(broken(path, 4))
    warning = "Warning: poses.avi is damaged at frame 4"
    under_both = under(controlled, *CONTROLS, pictures=path)
    assert tav(*tuning(controlled, tmp_path / "a.safetensors"), *under_both).err.count(warning) == 1
    edit = editing(controlled, tmp_path / "edits", "a cube", weights=controlled / "controlled.safetensors")
    assert tav(*edit, *under_both).err.count(warning) == 1
    assert tav(*edit, "--mask", path).err.count(warning) == 1


def test_control_images_of_the_clip_s_shape_are_cropped_and_chosen_as_it_is(folder):
    selection = Selection(folder / "ball.mp4", frames=3, size=64, start=1, stride=2)
    same = control_images(folder / "ball.mp4", selection, [])
    assert torch.equal(same, selection.read().frames)


def test_an_edit_knows_what_a_checkpoint_was_tuned_to_predict(folder, tmp_path):
    weights = tmp_path / "v.safetensors"
    assert tav(*tuning(folder, weights, steps=1, prediction_type="v_prediction")).code == 0
    quick = {"weights": weights, "steps": 1, "inversion_steps": 1}
    for name, words, predicts in (
        ("as-tuned", [], "v_prediction"),
        ("said", ["--prediction-type", "epsilon"], "epsilon"),
    ):
        done = tav(*editing(folder, tmp_path / name, "a cube", **quick), *words)
        assert done.code == 0, done.err
        assert manifest(tmp_path / name)["prediction_type"] == predicts


def test_a_result_of_the_original_is_edited_with_its_base_or_without(files, tmp_path):  # noqa: F811
    write_random_checkpoint(tmp_path / "base", size="tiny", layout="diffusers")
    write_original(tmp_path / "original", tmp_path / "base")
    psnr, wanted = {}, {"frames": 4, "size": 64, "start": 0, "stride": 0}
    for name, checkpoint in (("with", tmp_path / "base"), ("without", None)):
        words = editing(
            files, tmp_path / name, "a cube", weights=tmp_path / "original", checkpoint=checkpoint, **wanted
        )
        done = tav(
            *(word for pair in zip(words[::2], words[1::2], strict=True) for word in pair if pair[1] is not None)
        )
        assert done.code == 0, done.err
        assert "Warning" not in done.err
        psnr[name] = manifest(tmp_path / name)["reconstruction_psnr"]
    assert psnr["with"] == pytest.approx(psnr["without"], abs=0.01)


def wrong_family(folder, path):
    save_file(
        {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": torch.ones(2, 2048)}, path
    )
    return ["--lora", path]


def sdxl_controlnet(folder, path):
    network = ControlNetModel.from_pretrained(folder / "pose").state_dict()
    save_file({k: torch.zeros(64, 2048) if "attn2.to_k" in k else v for k, v in network.items()}, path)
    return ["--control", f"controlnet:{path}", "--control-pictures", folder / "poses.mp4"]


REFUSED = {
    "a LoRA of another family": (wrong_family, "is a LoRA for Stable Diffusion XL"),
    "no such LoRA": (lambda folder, path: ["--lora", f"{path}:0.5"], "There is no LoRA at"),
    "a strength without end": (
        lambda folder, path: ["--lora", f"{folder / 'lora.safetensors'}:99"],
        "strength of a LoRA",
    ),
    "a ControlNet of SDXL": (sdxl_controlnet, "is a ControlNet for Stable Diffusion XL"),
    "a control without pictures": (
        lambda folder, path: under(folder, "controlnet")[:2],
        "Got 1 --control and 0 --control-pictures",
    ),
    "a control with half a range": (
        lambda folder, path: [
            *("--control", f"controlnet:{folder / 'pose'}:0.5:0.2"),
            *("--control-pictures", folder / "poses.mp4"),
        ],
        "give TYPE:PATH",
    ),
    "a control of no type": (
        lambda folder, path: ["--control", "pose.safetensors", "--control-pictures", folder / "poses.mp4"],
        "give TYPE:PATH",
    ),
    "a control's strength without end": (
        lambda folder, path: under(folder, "controlnet", strength=99),
        "strength of a control",
    ),
    "no such network": (
        lambda folder, path: ["--control", f"controlnet:{path}", "--control-pictures", folder / "poses.mp4"],
        "There is no file or folder",
    ),
    "an adapter as a ControlNet": (
        lambda folder, path: [
            "--control",
            f"controlnet:{folder / 'depth'}",
            "--control-pictures",
            folder / "poses.mp4",
        ],
        "is not a ControlNet",
    ),
    "no such pictures": (
        lambda folder, path: under(folder, "controlnet", pictures="gone.mp4"),
        "There is no file or folder",
    ),
    "pictures of another count": (
        lambda folder, path: under(folder, "controlnet", pictures="few.mp4"),
        "few.mp4 holds 3 control images, but 4 of the clip's 10 frames are used",
    ),
    "pictures of another shape": (
        lambda folder, path: under(folder, "t2i-adapter", pictures="wide.mp4"),
        "wide.mp4 is 96x16, but the clip is 96x64, used at 64x64",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_added_is_refused_before_any_work(controlled, tmp_path, case):
    make, message = REFUSED[case]
    words = make(controlled, tmp_path / "it.safetensors")
    weights = controlled / "controlled.safetensors"
    for command in (
        tuning(controlled, tmp_path / "tuned.safetensors"),
        editing(controlled, tmp_path / "edit", "a cube", weights=weights),
    ):
        assert_refused(tav(*command, *words), message)
    assert not (tmp_path / "tuned.safetensors").exists()
    assert not list((tmp_path / "edit").glob("*.mp4"))


def test_a_config_of_the_original_runs_with_a_lora_under_control(folder, tmp_path):
    words = ["run", small_config(folder, tmp_path), "-c", folder / "sd.safetensors", "-o", tmp_path / "out"]
    done = tav(*words, "--lora", folder / "lora.safetensors", *under(folder, "controlnet"))
    assert done.code == 0, done.err
    facts = TunedWeights.load(tmp_path / "out" / "tuned.safetensors").facts
    assert facts.loras == manifest(tmp_path / "out")["loras"] == [{"file": "lora.safetensors", "strength": 1.0}]
    assert facts.controls == manifest(tmp_path / "out")["controls"]


def test_an_evaluation_is_of_the_checkpoint_with_its_lora(folder, tmp_path):
    figures = []
    for name, over in (("plain", []), ("lora", ["--lora", folder / "lora.safetensors"])):
        words = evaluating(folder / "sd.safetensors", tmp_path / name, "text-to-image")
        assert tav(*words, *over).code == 0
        figures.append(json.loads((tmp_path / name / "eval.json").read_text())["text-to-image"])
    assert figures[0] != figures[1]


def test_a_result_is_converted_against_the_base_that_it_was_tuned_on_and_a_lora_makes_another(folder, tmp_path):
    write_random_checkpoint(tmp_path / "base", size="tiny", layout="diffusers")
    write_original(tmp_path / "original", tmp_path / "base")
    words = ["convert", tmp_path / "original", "-c", tmp_path / "base", "-o", tmp_path / "it.safetensors"]
    assert "was tuned on another base" in tav(*words, "--lora", folder / "lora.safetensors").err
    assert tav(*words).code == 0


def test_a_converted_result_records_the_lora_that_it_was_tuned_with(folder, tmp_path):
    write_random_checkpoint(tmp_path / "base", size="tiny", layout="diffusers")
    fused = load_checkpoint(tmp_path / "base")
    fuse_loras(fused, [Lora(folder / "lora.safetensors", 0.5)])
    shutil.copytree(tmp_path / "base", tmp_path / "fused")
    fused.unet.save_pretrained(tmp_path / "fused" / "unet")
    write_original(tmp_path / "original", tmp_path / "fused")
    words = ["convert", tmp_path / "original", "-c", tmp_path / "base", "-o", tmp_path / "it.safetensors"]
    assert tav(*words, "--lora", f"{folder / 'lora.safetensors'}:0.5").code == 0
    (lora,) = TunedWeights.load(tmp_path / "it.safetensors").facts.loras
    assert (lora["file"], lora["strength"]) == ("lora.safetensors", 0.5)


def test_weights_without_a_checkpoint_name_the_one_that_they_were_tuned_on(controlled, tmp_path):
    words = editing(controlled, tmp_path, "a cube", weights=controlled / "controlled.safetensors", checkpoint="none")
    words = [word for pair in zip(words[2::2], words[3::2], strict=True) for word in pair if pair[0] != "--checkpoint"]
    refused = tav("edit", controlled / "ball.mp4", *words)
    assert "needs the checkpoint it was tuned on, sd.safetensors; give it with --checkpoint." in refused.err
