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


def edited(model, sd, graph) -> list[str | None]:
    """The notes of DDIM Invert and TAV Sample, as the node "node" of a graph."""
    invert, sample = pack("nodes.ddim_invert").DDIMInvert, pack("nodes.tav_sample").TAVSample
    hidden, empty = {"unique_id": "node", "prompt": graph}, {"samples": torch.zeros(2, 4, 8, 8)}
    text = sd.text("a red ball")
    return [
        note_of(executed(invert, model, text, CLIP, 1, False, **hidden)),
        note_of(executed(sample, model, text, sd.text(""), empty, 0, 1, 1.0, 0.0, **hidden)),
    ]


def node(**inputs) -> dict:
    return {"inputs": {name: [source, 0] for name, source in inputs.items()}}


WITH_POSE = {"control": POSES, "pose": POSE}
WEIGHTS = {"inputs": {"model": ["checkpoint", 0], "tuned_weights_name": "weights.safetensors"}}


@pytest.mark.parametrize(
    ("graph", "missing"),
    [
        ({"node": node(model="lora", positive="control"), "lora": LORA} | WITH_POSE, []),
        # loaded after the weights were applied
        ({"node": node(model="lora", positive="control"), "lora": LORA, "checkpoint": WEIGHTS} | WITH_POSE, []),
        ({"node": node(model="checkpoint", positive="control")} | WITH_POSE, ["toys.safetensors"]),
        (
            {
                "node": node(model="lora", positive="control"),
                "lora": {"inputs": LORA["inputs"] | {"strength_model": 0}},
            }
            | WITH_POSE,
            ["toys.safetensors"],
        ),
        ({"node": node(model="lora", positive="caption"), "lora": LORA}, ["pose.pth"]),
        (
            {
                "node": node(model="lora", positive="control"),
                "lora": LORA,
                "control": POSES,
                "pose": {"inputs": {"control_net_name": "depth.pth"}},
            },
            ["pose.pth"],
        ),
        # a network that the graph does not name may be the one
        ({"node": node(model="lora", positive="control"), "lora": LORA, "control": POSES}, []),
        (None, ["toys.safetensors", "pose.pth"]),
    ],
)
def test_an_edit_without_a_lora_or_a_control_of_the_tuning_is_warned_of(sd, tuned, graph, missing, caplog):
    notes = edited(pack("nodes.host.inflate").with_tuned(sd.model, tuned), sd, graph)
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    if missing:
        assert all(f"tuned with {', '.join(missing)}, which this edit does not use" in note for note in notes)
        assert [message.endswith(notes[0]) for message in logged] == [True, True]
    else:
        assert (notes, logged) == ([None, None], [])


def test_a_lora_that_no_graph_names_is_not_called_missing(sd, tuned):
    """It may be the one: nodes of other packs hold its name in other ways."""
    lora = sd.with_lora(pack("tav_core.demo.miniature").SKS_LORA)
    graph = {"node": node(model="stack", positive="control"), "stack": {"inputs": {"lora_1": {"lora": "toys"}}}}
    model = pack("nodes.host.inflate").with_tuned(lora, tuned)
    assert edited(model, sd, graph | WITH_POSE) == [None, None]


def test_applying_weights_says_nothing_of_loras_which_may_be_loaded_later(sd, tuned, tmp_path, monkeypatch, caplog):
    tuned.save(tmp_path / "weights.safetensors")
    load, apply = (pack(f"nodes.{name}") for name in ("load_tuned_weights", "apply_tuned_weights"))
    monkeypatch.setattr(load, "file_named", lambda name: tmp_path / name)
    assert note_of(executed(apply.ApplyTunedWeights, sd.model, tuned, 1.0)) is None
    assert note_of(executed(load.LoadTunedWeights, sd.model, "weights.safetensors", 1.0)) is None
    assert [record for record in caplog.records if record.levelno == logging.WARNING] == []


def test_nodes_run_from_a_script_too(sd, tuned):
    """Without the host's executor, which fills in the hidden inputs, a class has none."""
    model = pack("nodes.host.inflate").with_tuned(sd.model, replace(tuned, facts=replace(tuned.facts, controls=None)))
    node = pack("nodes.tav_sample").TAVSample
    empty = {"samples": torch.zeros(2, 4, 8, 8)}
    assert "toys.safetensors" in note_of(node.execute(model, sd.text(""), sd.text(""), empty, 0, 1, 1.0, 0.0))


def test_a_model_that_is_not_tuned_needs_no_control(sd):
    model = pack("nodes.host.inflate").inflate(sd.model)
    assert pack("nodes.host.differences").warn_of_missing(model, sd.text("a ball"), None, None) is None


def test_a_model_that_is_not_inflated_is_told(sd):
    for note in edited(sd.model, sd, {}):
        assert "This MODEL is not inflated" in note
    for note in edited(pack("nodes.host.inflate").inflate(sd.model), sd, {}):
        assert note is None
