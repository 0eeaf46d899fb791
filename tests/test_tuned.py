import errno
from dataclasses import fields

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tav_core import TavError, TuneConfig, TunedWeights, inflate
from tav_core.fingerprints import fingerprint
from tav_core.inflation import Inflation
from tav_core.tuned_facts import TunedFacts
from tests.networks import text, tiny_unet, video


def tuned_network(seed: int = 7):
    """An inflated network whose trained tensors have moved, and its query projections from before."""
    unet = inflate(tiny_unet())
    base = {name: parameter.clone() for name, parameter in unet.trainable_parameters().items()}
    generator = torch.Generator().manual_seed(seed)
    for parameter in unet.trainable_parameters().values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return unet, base


@torch.no_grad()
def test_a_saved_file_makes_a_fresh_network_the_tuned_one(tmp_path):
    unet, base = tuned_network()
    TunedWeights.from_unet(unet, base=base, prompt="a man", frames=4).save(tmp_path / "tuned.safetensors")
    loaded, fresh = TunedWeights.load(tmp_path / "tuned.safetensors"), inflate(tiny_unet())
    loaded.apply(fresh)
    torch.testing.assert_close(fresh(video(), 500, text()), unet(video(), 500, text()))
    assert loaded.facts.prompt == "a man"
    assert loaded.facts.base_fingerprint == fingerprint(inflate(tiny_unet()))


@torch.no_grad()
def test_strength_goes_from_the_base_exactly_to_the_tuned_network():
    unet, base = tuned_network()
    weights, fresh = TunedWeights.from_unet(unet, base=base), inflate(tiny_unet())
    untuned, outputs = fresh(video(), 500, text()), []
    for strength in (1.0, 0.0, 0.5, 1.0):  # each in place of the one before
        weights.apply(fresh, strength)
        outputs.append(fresh(video(), 500, text()))
    assert torch.equal(outputs[1], untuned)
    assert torch.equal(outputs[3], outputs[0])
    distances = [(output - untuned).abs().max() for output in outputs]
    assert 0 < distances[2] < distances[0]


def test_strength_scales_the_temporal_contribution_and_the_query_differences():
    unet, base = tuned_network()
    weights, half = TunedWeights.from_unet(unet, base=base), inflate(tiny_unet())
    weights.apply(half, 0.5)
    for name, parameter in half.trainable_parameters().items():
        whole = unet.trainable_parameters()[name]
        if "to_q" in name and "_temp" not in name:
            torch.testing.assert_close(parameter, (base[name] + whole) / 2)
        else:
            torch.testing.assert_close(parameter, whole / 2 if "to_out" in name else whole)


def test_the_fingerprint_is_of_the_base_in_any_precision_and_of_no_other():
    unet, base = tuned_network()
    assert TunedWeights.from_unet(unet, base=base).facts.base_fingerprint == fingerprint(inflate(tiny_unet()))
    assert fingerprint(inflate(tiny_unet().half())) == fingerprint(inflate(tiny_unet()))
    assert fingerprint(inflate(tiny_unet(seed=1))) != fingerprint(inflate(tiny_unet()))


def test_a_tuned_network_keeps_its_base_so_that_strength_means_the_same_on_it():
    unet = inflate(tiny_unet())
    unet.keep_base_queries()
    for parameter in unet.trainable_parameters().values():
        parameter.data += 0.05
    weights = TunedWeights.from_unet(unet)
    weights.apply(unet, 0.0)
    base = inflate(tiny_unet()).trainable_parameters()
    assert all(torch.equal(unet.trainable_parameters()[name], base[name]) for name in unet.base_queries)
    unet.load_state_dict(inflate(tiny_unet(seed=3)).state_dict())
    assert unet.base_queries is None


def test_weights_taken_from_a_network_do_not_change_with_it():
    unet, base = tuned_network()
    weights = TunedWeights.from_unet(unet, base=base)
    before = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    for _ in range(2):
        weights.apply(unet, 0.5)
    assert all(torch.equal(weights.tensors[name], before[name]) for name in before)


def test_a_base_that_is_the_tuned_network_itself_is_refused():
    unet, _ = tuned_network()
    with pytest.raises(TavError, match="The base is the tuned network itself"):
        TunedWeights.from_unet(unet, base=unet.state_dict())
    with pytest.raises(TavError, match="has not been tuned"):
        TunedWeights.from_unet(unet)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int32, torch.bool, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(tmp_path, dtype):
    unet, base = tuned_network()
    weights = TunedWeights.from_unet(unet, base=base)
    name = next(iter(weights.tensors))
    TunedWeights(weights.tensors | {name: weights.tensors[name].to(dtype)}).save(tmp_path / "tuned.safetensors")
    with pytest.raises(TavError, match=f"{name}' holds {dtype} instead of weights"):
        TunedWeights.load(tmp_path / "tuned.safetensors")


def test_weights_of_another_shape_name_the_layers(tmp_path):
    unet, base = tuned_network()
    weights = TunedWeights.from_unet(unet, base=base, family="sd1")
    wider = inflate(tiny_unet(block_out_channels=(32, 64)))
    with pytest.raises(TavError, match=r"down_blocks\.0.*\(16, 16\) for \(32, 32\).*and 25 more.*on Stable Diff"):
        weights.apply(wider)
    with pytest.raises(TavError, match=r"attn_temp.* for nothing"):
        weights.apply(inflate(tiny_unet(), temporal=False))


def test_files_that_hold_no_tuned_weights_are_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("not tensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "lora.safetensors")
    for name, message in (("text", "is damaged"), ("lora", "has format None"), ("absent", "There is no file")):
        with pytest.raises(TavError, match=message):
            TunedWeights.load(tmp_path / f"{name}.safetensors")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    unet, base = tuned_network()
    path = tmp_path / "tuned.safetensors"
    TunedWeights.from_unet(unet, base=base).save(path)
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        TunedWeights({"other": torch.zeros(3)}).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["tuned.safetensors"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


KNOWN = {field.name for of in (TunedFacts, Inflation) for field in fields(of)}
unknown_keys = st.text().filter(lambda key: key not in KNOWN)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(facts=st.dictionaries(unknown_keys, json_values, max_size=5), shape=st.lists(st.integers(0, 3), max_size=3))
def test_any_metadata_and_tensors_come_back_as_they_were(tmp_path_factory, facts, shape):
    path = tmp_path_factory.mktemp("tuned") / "file.safetensors"
    tensor, facts = torch.randn(shape), TunedFacts(prompt="a ball", more=facts)
    TunedWeights({"block.attn1.to_q.weight": tensor}, facts).save(path)
    loaded = TunedWeights.load(path)
    assert loaded.facts == facts
    assert torch.equal(loaded.tensors["block.attn1.to_q.weight"], tensor)


def test_settings_are_kept_field_by_field(tmp_path):
    unet, base = tuned_network()
    weights = TunedWeights.from_unet(unet, base=base, config=TuneConfig(num_steps=3, learning_rate=1e-4))
    weights.save(tmp_path / "tuned.safetensors")
    loaded = TunedWeights.load(tmp_path / "tuned.safetensors")
    assert TuneConfig(**loaded.facts.config) == TuneConfig(num_steps=3, learning_rate=1e-4)
    assert loaded.facts == weights.facts
