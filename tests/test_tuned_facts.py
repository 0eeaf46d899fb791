"""The metadata of tuned weights: files of earlier versions load, and what this version does not know is kept."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tav_core import TavError, TuneConfig, TunedWeights, inflate, load_checkpoint
from tav_core.files import read_metadata, read_tensors, write_tensors
from tav_core.fingerprints import fingerprint
from tav_core.inflation import Inflation
from tav_core.tuned import FORMAT
from tav_core.tuned_facts import TunedFacts, missing_names
from tests.networks import text, tiny_unet, video
from tests.random_checkpoint import write_random_checkpoint

FIXTURES = Path(__file__).with_name("fixtures")


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """By the name of the weights that were tuned on it: makes the network, with the width of its text."""
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "sd.safetensors"
    write_random_checkpoint(checkpoint, size="tiny")
    return {"shell": (lambda: load_checkpoint(checkpoint).unet, 64), "graph": (tiny_unet, 32)}


@pytest.mark.parametrize("name", ["shell", "graph"])
@torch.no_grad()
def test_an_earlier_version_s_weights_still_give_what_they_gave(networks, name):
    weights, (network, width) = TunedWeights.load(FIXTURES / f"{name}.safetensors"), networks[name]
    unet = inflate(network(), weights.facts.inflation)
    assert weights.facts.base_fingerprint == fingerprint(unet)
    for strength in (1.0, 0.5):
        weights.apply(unet, strength)
        expected = load_file(FIXTURES / "outputs.safetensors")[f"{name}.{strength}"]
        torch.testing.assert_close(unet(video(frames=3), 500, text(1, 7, width)), expected, atol=1e-4, rtol=1e-4)


def test_what_the_shell_recorded_has_its_fields():
    facts = TunedWeights.load(FIXTURES / "shell.safetensors").facts
    assert facts.inflation == Inflation(attention="first", group_norm="frame")
    assert (facts.family, facts.checkpoint, facts.prediction_type) == ("sd1", "sd.safetensors", "epsilon")
    assert (facts.prompt, facts.clip, facts.frames, facts.size) == ("a ball is rolling", "ball.mp4", 4, [64, 48])
    assert (facts.start, facts.stride, facts.fit, facts.fps, facts.posterior) == (1, 2, "pad", 4.0, True)
    assert facts.loras == [{"file": "lora.safetensors", "strength": 0.5}]
    (control,) = facts.controls
    assert (control["kind"], control["network"], control["pictures"]) == ("controlnet", "pose", "one.png")
    assert TuneConfig(**facts.config) == TuneConfig(num_steps=3, learning_rate=1e-3)
    assert (facts.steps, facts.version, len(facts.run), facts.more) == (3, "0.1.0", 64, {})
    assert facts.final_loss == pytest.approx(1.2259, abs=1e-4)


def test_what_the_graph_recorded_has_its_fields():
    facts = TunedWeights.load(FIXTURES / "graph.safetensors").facts
    assert facts.inflation == Inflation()
    assert (facts.prompt, facts.frames, facts.size, facts.steps) == ("a ball is rolling", 4, [64, 48], 3)
    assert (facts.checkpoint, facts.fps, facts.clip, facts.loras, facts.controls) == (None,) * 5
    assert TuneConfig(**facts.config).checkpoint_every == 1
    assert facts.more == {}


@pytest.fixture
def changed(tmp_path):
    """Writes the graph's file with other metadata, or of another format."""
    path = tmp_path / "weights.safetensors"
    tensors, metadata = read_tensors(FIXTURES / "graph.safetensors", FORMAT)

    def change(kind=FORMAT, **changes):
        write_tensors(path, tensors, kind, metadata | changes)
        return path

    return change


def test_keys_that_are_not_known_survive_loading_and_saving(changed, tmp_path):
    later = {"mask": {"file": "ball.png"}, "windows": 3, "cls": "any", "self": "name"}
    weights = TunedWeights.load(changed(**later))
    assert weights.facts.more == later
    weights.save(tmp_path / "again.safetensors")
    assert TunedWeights.load(tmp_path / "again.safetensors").facts == weights.facts
    assert read_metadata(tmp_path / "again.safetensors", FORMAT).items() >= later.items()


def test_metadata_goes_there_and_back():
    facts = TunedFacts.of(prompt="a ball", inflation=Inflation(attention="full"), fps=8, steps=3, note="mine")
    assert facts.more == {"note": "mine"}
    assert TunedFacts.from_metadata(facts.as_metadata()) == facts
    assert facts.as_metadata() == Inflation(attention="full").as_metadata() | {
        "prompt": "a ball",
        "fps": 8,
        "steps": 3,
        "note": "mine",
    }


def test_a_file_of_a_newer_format_asks_for_an_update(changed):
    with pytest.raises(TavError, match=r"format 'tune-a-video/2'.* update Tune-A-Video") as caught:
        TunedWeights.load(changed("tune-a-video/2"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": 3}, "prompt must be text; got 3"),
        ({"frames": "four"}, "frames must be a whole number; got 'four'"),
        ({"fps": [8]}, r"fps must be a number; got \[8\]"),
        ({"loras": "a.safetensors"}, "loras must be a list"),
        ({"config": []}, "config must be a table"),
        ({"config": "x"}, "config must be a table"),
        ({"frames": True}, "frames must be a whole number; got True"),
        ({"family": ["sd1"]}, "family must be text"),
        ({"fps": float("nan")}, "fps must be a number; got nan"),
        ({"size": [64]}, r"size must be a width and a height; got \[64\]"),
        ({"size": [64, "48"]}, "each part of size must be a whole number; got '48'"),
        ({"prompt": ["a cat", 3]}, "each part of prompt must be text; got 3"),
        ({"loras": ["a.safetensors"]}, "each of loras must be a table; got 'a.safetensors'"),
        ({"loras": [{"file": ["a"]}]}, r"file of loras must be text; got \['a'\]"),
        ({"loras": [{"file": "a", "strength": "1"}]}, "strength of loras must be a number; got '1'"),
        ({"controls": [{"network": {}}]}, r"network of controls must be text; got \{\}"),
        ({"temporal": "yes"}, "temporal must be True or False; got 'yes'"),
        ({"attention": "all"}, "attention must be one of .*; got 'all'"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_by_its_name(changed, changes, message):
    with pytest.raises(TavError, match=rf"metadata of .*weights.safetensors.*: {message}"):
        TunedWeights.load(changed(**changes))


def test_what_cannot_be_loaded_is_refused_before_it_is_saved():
    with pytest.raises(TavError, match="frames must be a whole number"):
        TunedFacts.of(frames=4.5)


def test_a_prompt_per_frame_and_one_side_for_a_square_come_back(tmp_path):
    facts = TunedFacts.of(prompt=["a cat", "a dog"], size=64, cls="somebody's key")
    TunedWeights({"block.attn1.to_q.weight": torch.zeros(2, 2)}, facts).save(tmp_path / "weights.safetensors")
    assert TunedWeights.load(tmp_path / "weights.safetensors").facts == facts


@pytest.mark.parametrize(
    ("recorded", "present", "missing"),
    [
        ([{"file": "a"}], {"a"}, ""),
        ([{"file": "a"}, {"file": "b"}], {"a"}, "b"),
        ([{"file": None}], {"any"}, ""),  # it may be that one
        ([{"file": None}], set(), "an unknown LoRA"),
        ([{"file": "a"}, {"file": None}], set(), "a, an unknown LoRA"),
        (None, set(), ""),
    ],
)
def test_what_is_missing_is_named_as_far_as_names_are_known(recorded, present, missing):
    assert missing_names(recorded, present, "file") == missing
