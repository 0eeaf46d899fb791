"""Results of the original implementation: opened as a checkpoint, taken as tuned weights, converted in the shell."""

import json
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet3DConditionModel

from tav_core import TavError, TunedWeights, inflate, load_checkpoint
from tav_core.checkpoints.original import is_original
from tav_core.fingerprints import fingerprint
from tav_core.jobs.original_weights import load_weights, original_weights
from tests import golden
from tests.cli.test_cli import tav
from tests.golden import worst
from tests.original_folder import SETTINGS, as_tuned, write_original, write_unet
from tests.random_checkpoint import write_random_checkpoint


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A base, a result of tuning it, and another base."""
    folder = tmp_path_factory.mktemp("originals")
    write_random_checkpoint(folder / "base", size="tiny", layout="diffusers")
    write_random_checkpoint(folder / "base.safetensors", size="tiny")
    write_random_checkpoint(folder / "other.safetensors", size="tiny", seed=1)
    write_random_checkpoint(folder / "sd2.safetensors", size="tiny-sd2")
    write_original(folder / "result", folder / "base")
    return folder


@pytest.fixture
def result(written, tmp_path):
    return shutil.copytree(written / "result", tmp_path / "result")


@pytest.fixture(scope="module")
def base(written):
    return load_checkpoint(written / "base.safetensors").unet


def weights_of(folder):
    return torch.load(folder / "unet" / "diffusion_pytorch_model.bin", weights_only=True)


def rewrite(folder, **changes):
    """Changes tensors of a result's network by a part of their names; None leaves them out."""
    tensors = weights_of(folder)
    for part, change in changes.items():
        found = [key for key in tensors if part in key.replace(".", "_")]
        assert found
        for key in found:
            tensors[key] = change and change(tensors[key])
    path = folder / "unet" / "diffusion_pytorch_model.bin"
    torch.save({key: tensor for key, tensor in tensors.items() if tensor is not None}, path)
    return folder


def forward(unet, frames=3):
    generator = torch.Generator().manual_seed(5)
    width = unet.unet.config.cross_attention_dim
    latents, embeds = (
        torch.randn(1, 4, frames, 8, 8, generator=generator),
        torch.randn(1, 7, width, generator=generator),
    )
    with torch.no_grad():
        return unet(latents, 501, embeds)


def refusal(path, base=None):
    with pytest.raises(TavError) as caught:
        original_weights(path, base)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# What the original computed


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("with_base", [True, False])
@pytest.mark.parametrize("alone", [True, False])
def test_a_result_gives_the_numbers_that_the_original_gave(tmp_path, suffix, with_base, alone):
    """With its base, whose query projections are others; and without, onto its own 2-D part."""
    case = golden.load("zero_init_A16")
    unet2d, temporal = case.part("unet2d."), case.part("temp.")
    write_unet(tmp_path / "result" / "unet", case.config, unet2d | temporal, suffix=suffix)
    path = tmp_path / "result" / "unet" if alone else tmp_path / "result"
    target = case.unet2d()
    if with_base:
        before = {key: tensor for key, tensor in as_tuned(unet2d).items() if key in unet2d}
        target.load_state_dict(before)
    weights = original_weights(path, target if with_base else None)
    unet = inflate(target).eval()
    weights.apply(unet)
    for tag in ("f1", "f3", "f3_same"):
        given = case.part(f"in.{tag}.")
        with torch.no_grad():
            output = unet(given["sample"], given["timestep"], given["encoder_hidden_states"])
        assert worst(output, case[f"out.ref_init.{tag}.sample"]) < 1e-4, tag


@torch.no_grad()
def test_a_step_of_the_original_s_tuning_is_taken_over_whole(tmp_path):
    """After its first step the original computed this loss in the second; without the step it would be another."""
    case = golden.load("train_A16_refinit")
    before = case.part("unet2d.") | case.part("temp.")
    write_unet(tmp_path / "unet", case.config, before | case.part("out.step1."))
    unet = inflate(case.unet2d()).eval()
    original_weights(tmp_path / "unet", case.unet2d()).apply(unet)
    noise, timesteps = case["in.noise"][1], case["in.timesteps"][1]
    noisy = golden.ddim().add_noise(case["in.latents"][1], noise, timesteps)

    def loss():
        prediction = unet(noisy, timesteps, case["in.encoder_hidden_states"])
        return torch.nn.functional.mse_loss(prediction, noise).item()

    assert loss() == pytest.approx(case["out.loss"][1].item(), rel=1e-5)
    original = case.unet()
    unet.load_state_dict(original.state_dict())
    assert loss() != pytest.approx(case["out.loss"][1].item(), rel=1e-3)


def test_a_result_stored_in_half_precision_is_taken_against_a_base_in_full(result, base, written):
    full = original_weights(written / "result", base)
    tensors = {key: tensor.half() for key, tensor in weights_of(result).items()}
    torch.save(tensors, result / "unet" / "diffusion_pytorch_model.bin")
    half = original_weights(result, base)
    assert half.facts.base_fingerprint == full.facts.base_fingerprint
    assert all(tensor.dtype == torch.float32 for tensor in half.tensors.values())
    assert all(torch.allclose(half.tensors[key], full.tensors[key], atol=1e-3) for key in full.tensors)


# The folder as a checkpoint


def test_a_result_opens_as_a_checkpoint_whose_unet_is_its_2_d_part(written):
    opened, base = load_checkpoint(written / "result"), load_checkpoint(written / "base")
    tuned, untuned = opened.unet.state_dict(), base.unet.state_dict()
    assert tuned.keys() == untuned.keys()
    changed = {key for key in tuned if not torch.equal(tuned[key], untuned[key])}
    assert changed == {key for key in tuned if ".to_q." in key}
    assert opened.family == "sd1"
    assert type(opened.unet) is UNet2DConditionModel
    assert opened.unet.config.mid_block_type == "UNetMidBlock2DCrossAttn"
    frames = torch.rand(1, 16, 16, 3)
    assert torch.equal(opened.encode_video(frames), base.encode_video(frames))
    assert torch.equal(opened.encode_prompt("a cat").embeds, base.encode_prompt("a cat").embeds)


def test_the_network_alone_is_no_checkpoint(written):
    with pytest.raises(TavError, match=r"The folder unet holds only the UNet .* pass its base checkpoint"):
        load_checkpoint(written / "result" / "unet")


def test_opening_a_result_prints_nothing(written, capfd):
    load_checkpoint(written / "result")
    original_weights(written / "result")
    assert capfd.readouterr() == ("", "")


def test_a_result_without_its_base_goes_onto_its_own_2_d_part(written, base):
    weights, with_base = original_weights(written / "result"), original_weights(written / "result", base)
    own, onto_base = (inflate(load_checkpoint(written / name).unet) for name in ("result", "base"))
    assert weights.facts.base_fingerprint == fingerprint(own)
    assert with_base.facts.base_fingerprint == fingerprint(onto_base) != fingerprint(own)
    assert not any(tensor.any() for key, tensor in weights.tensors.items() if ".attn_temp." not in key)
    weights.apply(own)
    with_base.apply(onto_base)
    torch.testing.assert_close(forward(own), forward(onto_base), atol=1e-4, rtol=0)


# Metadata


def test_the_metadata_is_what_the_original_wrote_beside_its_network(written, base):
    told = {
        "prompt": "a man is skiing",
        "clip": "man-skiing.mp4",
        "frames": 4,
        "size": [64, 32],
        "start": 1,
        "stride": 2,
        "fit": "stretch",
        "steps": 5,
        "prediction_type": "epsilon",
    }
    known = {"attention": "sparse-causal", "group_norm": "video", "temporal": True, "family": "sd1"}
    facts = original_weights(written / "result", base).facts
    assert facts.as_metadata().items() >= (told | known | {"source": "result/unet"}).items()


def test_what_else_is_known_goes_before_what_the_original_wrote(written, base):
    facts = original_weights(written / "result", base, prompt="a panda is skiing", note="mine").facts
    assert (facts.prompt, facts.more, facts.frames) == ("a panda is skiing", {"note": "mine"}, 4)


def test_weights_load_alike_from_a_file_of_ours_and_from_a_result_beside_any_checkpoint(written, base, tmp_path):
    expected = original_weights(written / "result", base)
    expected.save(tmp_path / "ours.safetensors")
    against_file = load_weights(written / "result", written / "base.safetensors")
    for weights in (load_weights(tmp_path / "ours.safetensors"), against_file):
        assert all(torch.equal(weights.tensors[key], tensor) for key, tensor in expected.tensors.items())
    assert against_file.facts.checkpoint == "base.safetensors"
    for itself in (None, written / "result", written / "base" / ".." / "result"):
        weights = load_weights(written / "result", itself)
        assert weights.facts.base_fingerprint == fingerprint(load_checkpoint(written / "result").unet)


@pytest.mark.parametrize(
    "content", [None, "a letter", "train_data: [1]", "{", json.dumps(SETTINGS | {"train_data": {}})]
)
def test_a_result_without_the_original_s_settings_is_taken_without_them(result, base, content):
    (result / "config.yaml").unlink()
    if content:
        (result / "config.yaml").write_text(content)
    facts = original_weights(result, base).facts
    assert (facts.prompt, facts.family) == (None, "sd1")


# What is recognised


def test_results_are_recognised(written, tmp_path):
    assert is_original(written / "result")
    assert is_original(written / "result" / "unet")
    for other in (written / "base", written / "base.safetensors", written, tmp_path / "nowhere"):
        assert not is_original(other)


def modelscope(folder):
    """diffusers' own video network of the same class name, tiny."""
    blocks = {"down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"], "block_out_channels": [32, 64]}
    blocks |= {"up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"], "layers_per_block": 1}
    unet = UNet3DConditionModel(**blocks, cross_attention_dim=64, attention_head_dim=8, norm_num_groups=32)
    unet.save_pretrained(folder, safe_serialization=False)


@pytest.mark.parametrize("disguised", [False, True])
def test_modelscope_s_network_of_the_same_name_is_refused_as_a_video_model(result, disguised):
    config = json.loads((result / "unet" / "config.json").read_text())
    shutil.rmtree(result / "unet")
    modelscope(result / "unet")
    if disguised:
        (result / "unet" / "config.json").write_text(json.dumps(config))
    assert is_original(result) == disguised
    assert "looks like a video model (UNet3DConditionModel)" in refusal(result)
    with pytest.raises(TavError, match="result looks like a video model"):
        load_checkpoint(result)


def test_what_is_no_result_is_refused(written, tmp_path):
    assert "base/unet is an image model, not the output of the original" in refusal(written / "base")
    assert "There is no folder" in refusal(tmp_path / "nowhere")
    assert "There is no folder" in refusal(written / "base.safetensors")
    assert "config.json cannot be read" in refusal(tmp_path)


def test_another_base_is_recognised_by_what_tuning_leaves_alone(written, base):
    for other in ("other", "sd2"):
        message = refusal(written / "result", load_checkpoint(written / f"{other}.safetensors").unet)
        assert "result/unet was tuned on another base: " in message
        assert " tensors that are not trained differ, such as conv_in.weight" in message
    one = load_checkpoint(written / "base.safetensors").unet
    one.mid_block.resnets[0].conv1.weight.data[0, 0, 0, 0] += 0.01
    assert "1 of the 272 tensors that are not trained differ, such as mid_block.resnets.0.conv1.weight" in refusal(
        written / "result", one
    )


def test_the_tuned_network_is_not_taken_for_its_base(written):
    assert "seems to be the tuned network" in refusal(written / "result", load_checkpoint(written / "result").unet)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_temp_weight": lambda tensor: tensor + 0.1}, "norm_temp.weight is not at its initial value"),
        ({"norm_temp_bias": lambda tensor: tensor + 0.1}, "norm_temp.bias is not at its initial value"),
        ({"attn_temp_to_k": lambda tensor: tensor * float("nan")}, "holds NaN or infinite values"),
        ({"mid_block_attentions_0_transformer_blocks_0_attn_temp_to_q": None}, "1 missing tensors, such as mid_block"),
        ({"attn_temp_to_v": lambda tensor: tensor[:1]}, "misshapen tensors"),
        ({"conv_out_bias": None}, "1 missing tensors, such as conv_out.bias"),
    ],
)
def test_a_damaged_result_is_refused(result, base, changes, message):
    assert message in refusal(rewrite(result, **changes), base)


def test_a_broken_folder_is_refused(result, base):
    weights = result / "unet" / "diffusion_pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "result/unet/diffusion_pytorch_model.bin is damaged" in refusal(result, base)
    weights.unlink()
    assert "result/unet has no .safetensors or .bin weights" in refusal(result, base)
    (result / "unet" / "config.json").write_text("[]")
    assert "result/unet/config.json cannot be read" in refusal(result, base)


# The command


def test_the_shell_converts_a_result_into_weights_that_give_the_same_video(written, tmp_path):
    output = tmp_path / "weights" / "skiing.safetensors"
    words = ("convert", written / "result", "-c", written / "base.safetensors", "-o", output, "-p", "a panda is skiing")
    done = tav(*words)
    assert (done.code, done.out) == (0, f"{output}\n"), done.err
    weights = TunedWeights.load(output)
    facts = weights.facts
    assert (facts.prompt, facts.frames, facts.checkpoint) == ("a panda is skiing", 4, "base.safetensors")
    unet, own = (inflate(load_checkpoint(written / name).unet) for name in ("base", "result"))
    weights.apply(unet)
    original_weights(written / "result").apply(own)
    torch.testing.assert_close(forward(unet), forward(own), atol=1e-4, rtol=0)
    assert "a panda is skiing" in tav("info", output).out


def test_the_shell_replaces_a_file_only_by_force(written, tmp_path):
    output = tmp_path / "skiing.safetensors"
    output.write_text("a letter")
    words = ("convert", written / "result" / "unet", "-c", written / "base", "-o", output)
    refused = tav(*words)
    assert refused.code == 2
    assert f"{output} already exists; choose another name, or overwrite it with --force." in refused.err
    assert output.read_text() == "a letter"
    assert tav(*words, "--force").code == 0
    assert TunedWeights.load(output).facts.prompt == "a man is skiing"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"-c": "other.safetensors"}, "was tuned on another base"),
        ({"-o": "skiing.bin"}, "give it that suffix"),
        ({"-p": " "}, "The clip's prompt is empty"),
        ({"-c": "nowhere"}, "no checkpoint at"),
    ],
)
def test_the_shell_refuses_with_an_error_message_and_writes_nothing(written, tmp_path, changes, message):
    options = {"-c": "base", "-o": "skiing.safetensors", "-p": "a man is skiing"} | changes
    where = {"-c": written / options["-c"], "-o": tmp_path / "out" / options["-o"], "-p": options["-p"]}
    refused = tav("convert", written / "result", *(word for pair in where.items() for word in pair))
    assert refused.code == 2
    assert message in refused.err
    assert not list(tmp_path.rglob("*.*"))
