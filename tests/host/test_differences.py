"""Nodes warn, in the node and in the log, where an edit lacks a LoRA or a control that its weights were tuned with."""

import logging
from dataclasses import replace

import pytest
import torch

from tests.host.inprocess import executed, miniature, pack
from tests.host.test_parity import diffusers_twin, random, tuned_weights

TUNED_WITH = {
    "loras": [{"file": "toys.safetensors", "strength": 0.8}],
    "controls": [
        {"kind": "controlnet", "network": "pose.pth", "pictures": "poses", "strength": 1.0, "start": 0.0, "end": 1.0}
    ],
}
LORA = {"inputs": {"model": ["checkpoint", 0], "lora_name": "3d/toys.safetensors", "strength_model": 0.5}}
POSES = {"inputs": {"positive": ["caption", 0], "control_net": ["pose", 0], "image": ["frames", 0]}}
POSE = {"inputs": {"control_net_name": "sd15/pose.pth"}}
CLIP = {"samples": random(2, 4, 8, 8)}


@pytest.fixture(scope="module")
def sd():
    return miniature()


@pytest.fixture(scope="module")
def tuned(sd):
    """Weights that were tuned on this model, with a LoRA and a control."""
    weights = tuned_weights(diffusers_twin(sd.model))
    base = pack("nodes.host.weights").base_fingerprint(sd.model)
    return replace(weights, facts=replace(weights.facts, base_fingerprint=base, **TUNED_WITH))


def note_of(output) -> str | None:
    return output.ui["tune_a_video"][0]["note"]


@pytest.mark.parametrize(
    ("graph", "missing"),
    [
        ({"node": {"inputs": {"model": ["lora", 0]}}, "lora": LORA}, False),
        ({"node": {"inputs": {"model": ["checkpoint", 0]}}}, True),
        (
            {"node": {"inputs": {"model": ["lora", 0]}}, "lora": {"inputs": LORA["inputs"] | {"strength_model": 0}}},
            True,
        ),
        (None, True),
    ],
)
def test_weights_without_their_lora_are_warned_of(sd, tuned, graph, missing, tmp_path, monkeypatch, caplog):
    tuned.save(tmp_path / "weights.safetensors")
    load, apply = (pack(f"nodes.{name}") for name in ("load_tuned_weights", "apply_tuned_weights"))
    monkeypatch.setattr(load, "file_named", lambda name: tmp_path / name)
    hidden = {"unique_id": "node", "prompt": graph}
    notes = [
        note_of(executed(apply.ApplyTunedWeights, sd.model, tuned, 1.0, **hidden)),
        note_of(executed(load.LoadTunedWeights, sd.model, "weights.safetensors", 1.0, **hidden)),
    ]
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    if missing:
        assert all("tuned with toys.safetensors" in note for note in notes)
        assert [message.endswith(notes[0]) for message in logged] == [True, True]
    else:
        assert (notes, logged) == ([None, None], [])


def test_a_lora_that_no_graph_names_is_not_called_missing(sd, tuned):
    """It may be the one: nodes of other packs hold its name in other ways."""
    lora = sd.with_lora(pack("tav_core.demo.miniature").STRIPED_BALL)
    graph = {"node": {"inputs": {"model": ["stack", 0]}}, "stack": {"inputs": {"lora_1": {"lora": "toys.safetensors"}}}}
    node = pack("nodes.apply_tuned_weights").ApplyTunedWeights
    assert note_of(executed(node, lora, tuned, 1.0, unique_id="node", prompt=graph)) is None


@pytest.mark.parametrize(
    ("graph", "missing"),
    [
        ({"node": {"inputs": {"positive": ["control", 0]}}, "control": POSES, "pose": POSE}, False),
        ({"node": {"inputs": {"positive": ["caption", 0]}}}, True),
        (
            {
                "node": {"inputs": {"positive": ["control", 0]}},
                "control": POSES,
                "pose": {"inputs": {"control_net_name": "depth.pth"}},
            },
            True,
        ),
        ({"node": {"inputs": {"positive": ["control", 0]}}, "control": POSES}, False),  # an unknown one may be it
    ],
)
def test_a_prompt_without_its_control_is_warned_of(sd, tuned, graph, missing, caplog):
    model = pack("nodes.host.inflate").with_tuned(sd.model, tuned)
    invert, sample = pack("nodes.ddim_invert").DDIMInvert, pack("nodes.tav_sample").TAVSample
    hidden, empty = {"unique_id": "node", "prompt": graph}, {"samples": torch.zeros(2, 4, 8, 8)}
    text = sd.text("a red ball")
    notes = [
        note_of(executed(invert, model, text, CLIP, 1, False, **hidden)),
        note_of(executed(sample, model, text, sd.text(""), empty, 0, 1, 1.0, 0.0, **hidden)),
    ]
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    if missing:
        assert all("tuned with pose.pth" in note for note in notes)
        assert [message.endswith(notes[0]) for message in logged] == [True, True]
    else:
        assert (notes, logged) == ([None, None], [])


def test_a_model_that_is_not_tuned_needs_no_control(sd):
    model = pack("nodes.host.inflate").inflate(sd.model)
    assert pack("nodes.host.differences").warn_of_controls(model, sd.text("a ball"), None, None) is None
