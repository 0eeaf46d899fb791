"""ComfyUI's UNet, inflated by nodes/host, and diffusers', inflated by tav_core, are the same network."""

from dataclasses import dataclass, replace

import pytest
import torch
from einops import rearrange
from torch import nn

from tests import golden
from tests.golden import worst
from tests.host.assets import CHECKPOINT, CONTROLNET, LORA, T2I_ADAPTER
from tests.host.inprocess import checkpoint, core, inputs, miniature, pack, predict

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sd(models):
    return checkpoint(models / "checkpoints" / CHECKPOINT)


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def tuned_weights(unet, seed: int = 5):
    """Random tuned weights for a diffusers network that is inflated already."""
    names, difference_names = unet.trainable_parameters(), pack("tav_core.inflation").difference_names
    tensors = {name: random(*p.shape, seed=seed + i, scale=0.02) for i, (name, p) in enumerate(names.items())}
    assert difference_names(tensors)
    return pack("tav_core").TunedWeights(tensors, pack("tav_core.tuned_facts").TunedFacts(inflation=unet.inflation))


def diffusers_twin(model):
    """The MODEL's weights in tav_core's network."""
    unet = pack("nodes.host.weights").diffusers_unet(model, CPU)
    return pack("tav_core.inflate").inflate(unet)


def core_prediction(core_unet, latents, timestep, text):
    with torch.no_grad():
        return core_unet(latents, timestep, text)


def test_the_weights_taken_from_a_model_are_the_checkpoints(sd):
    unet = pack("nodes.host.weights").diffusers_unet(sd.model, CPU)
    read = pack("tav_core.checkpoints.checkpoint").load_checkpoint(sd.path, device=CPU, dtype=torch.float32)
    theirs = read.unet.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in unet.state_dict().items())
    assert pack("nodes.host.weights").base_fingerprint(sd.model) == pack("tav_core.fingerprints").fingerprint(read.unet)


@pytest.mark.parametrize("with_lora", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_an_inflated_tuned_model_is_tav_cores_network(sd, models, batch, with_lora):
    model = sd.with_lora(models / "loras" / LORA) if with_lora else sd.model
    unet = diffusers_twin(model)
    latents, text = random(batch, 4, 3, 8, 8, seed=batch), random(batch, 77, 768, seed=9)
    timestep = torch.tensor([500, 17][:batch])
    inflated = pack("nodes.host.inflate").inflate(model)
    assert worst(predict(inflated, latents, timestep, text), core_prediction(unet, latents, timestep, text)) < 1e-4
    tuned = tuned_weights(unet)
    untuned = core_prediction(unet, latents, timestep, text)
    tuned.apply(unet)
    expected = core_prediction(unet, latents, timestep, text)
    assert worst(expected, untuned) > 0.01
    got = predict(pack("nodes.host.inflate").with_tuned(model, tuned), latents, timestep, text)
    print(f"batch {batch}, LoRA {with_lora}: {worst(got, expected):.1e}")
    assert worst(got, expected) < 1e-4


@pytest.mark.parametrize("attention", ["first", "frame", "full-causal", "full"])
@pytest.mark.parametrize("group_norm", ["video", "frame"])
def test_every_pattern_is_tav_cores(sd, attention, group_norm):
    unet = pack("nodes.host.weights").diffusers_unet(sd.model, CPU)
    unet = pack("tav_core.inflate").inflate(unet, attention=attention, group_norm=group_norm)
    inputs = random(1, 4, 3, 8, 8), torch.tensor([300]), random(1, 77, 768)
    inflated = pack("nodes.host.inflate").inflate(sd.model, attention=attention, group_norm=group_norm)
    assert worst(predict(inflated, *inputs), core_prediction(unet, *inputs)) < 1e-4


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.5])
def test_a_strength_is_tav_cores(sd, strength):
    unet, inputs = diffusers_twin(sd.model), (random(1, 4, 3, 8, 8), torch.tensor([300]), random(1, 77, 768))
    base, tuned = core_prediction(unet, *inputs), tuned_weights(unet)
    tuned.apply(unet, strength)
    got = predict(pack("nodes.host.inflate").with_tuned(sd.model, tuned, strength), *inputs)
    assert worst(got, core_prediction(unet, *inputs)) < 1e-4
    if strength == 0:
        assert torch.equal(got, predict(pack("nodes.host.inflate").inflate(sd.model), *inputs))
    else:
        assert worst(got, base) > 0.01


def temporal_convolution(name):
    """An Addition to each residual block that nobody else has: a convolution over time."""
    return pack("tav_core.addition").Addition(
        place="resnet",
        build=lambda channels, _heads, layers=nn, **placement: {
            name: layers.Conv1d(channels, channels, 3, padding=1, **placement)
        },
        initialise=lambda parts, _generator: [nn.init.zeros_(p) for p in parts[name].parameters()],
        residual=lambda block, hidden_states, num_frames: convolved(getattr(block, name), hidden_states, num_frames),
        trained=name,
        output=name,
    )


def convolved(conv, hidden_states, num_frames):
    height, width = hidden_states.shape[-2:]
    over_time = conv(rearrange(hidden_states, "(b f) c h w -> (b h w) c f", f=num_frames))
    return rearrange(over_time, "(b h w) c f -> (b f) c h w", h=height, w=width)


def test_a_new_module_in_the_residual_blocks_is_one_entry_for_both_networks(monkeypatch):
    inflation, sd = pack("tav_core.inflation"), miniature()
    for field, part in (("over_time", "conv_temp"), ("another", "conv_after")):  # the second sees what the first adds
        monkeypatch.setitem(inflation.ADDITIONS, field, (temporal_convolution(part),))
        monkeypatch.setattr(inflation.Inflation, field, False, raising=False)

    @dataclass(frozen=True)
    class WithConvolution(inflation.Inflation):
        over_time: bool = True
        another: bool = True

    host, given = pack("nodes.host.inflate"), inputs(sd.model)
    unet = pack("nodes.host.weights").diffusers_unet(sd.model, CPU)
    unet = pack("tav_core.inflate").inflate(unet, WithConvolution())
    untuned, tuned = core_prediction(unet, *given), tuned_weights(unet)
    still = {name: torch.zeros_like(tensor) for name, tensor in tuned.tensors.items() if ".conv_" in name}
    assert still
    for strength in (1.0, 0.5, 0.0):
        tuned.apply(unet, strength)
        expected = core_prediction(unet, *given)
        assert worst(predict(host.with_tuned(sd.model, tuned, strength), *given), expected) < 1e-4
        without = replace(tuned, tensors=tuned.tensors | still)
        without.apply(unet, strength)
        assert (worst(core_prediction(unet, *given), expected) > 0.01) == (strength > 0)
    assert torch.equal(expected, untuned)


TEMPORAL_LAYERS = {
    "position bias": {"position_bias": True},
    "Make-A-Video": {"attention": "frame", "group_norm": "frame", "convolution": True},
    "Video LDM": {
        "attention": "frame",
        "group_norm": "frame",
        "convolution": True,
        "merge": "alpha",
        "queries": False,
    },
    "all": {"position_bias": True, "convolution": True, "merge": "alpha"},
}


@pytest.mark.parametrize("fields", TEMPORAL_LAYERS.values(), ids=TEMPORAL_LAYERS)
def test_the_temporal_layers_of_other_networks_are_tav_cores(fields):
    sd = miniature()
    host, given = pack("nodes.host.inflate"), inputs(sd.model)
    unet = pack("nodes.host.weights").diffusers_unet(sd.model, CPU)
    unet = pack("tav_core.inflate").inflate(unet, **fields)
    untuned, names = core_prediction(unet, *given), unet.trainable_parameters()
    tensors = {name: random(*p.shape, seed=5 + i, scale=0.05) for i, (name, p) in enumerate(names.items())}
    facts = pack("tav_core.tuned_facts").TunedFacts(inflation=unet.inflation)
    tuned = pack("tav_core").TunedWeights(tensors, facts)
    for strength in (1.0, 0.5, 0.0):
        tuned.apply(unet, strength)
        expected = core_prediction(unet, *given)
        assert worst(predict(host.with_tuned(sd.model, tuned, strength), *given), expected) < 1e-4
        assert (worst(expected, untuned) > 0.01) == (strength > 0)
    assert torch.equal(expected, untuned)
    fresh = host.inflate(sd.model, **fields)
    assert worst(predict(fresh, *given), untuned) < 1e-4


def test_tuned_layers_are_not_computed_in_another_way_than_they_were_tuned():
    sd = miniature()
    host, error = pack("nodes.host.inflate"), pack("tav_core.errors").TavError
    unet = pack("nodes.host.weights").diffusers_unet(sd.model, CPU)
    model = host.with_tuned(sd.model, tuned_weights(pack("tav_core.inflate").inflate(unet, merge="alpha")))
    with pytest.raises(error, match="tuned with merge 'alpha', but Inflate UNet sets it to 'add'"):
        host.inflate(model)


@pytest.mark.parametrize("fields", [{"merge": "alpha"}, {"position_bias": True}], ids=str)
def test_tuned_temporal_layers_can_be_left_out(fields):
    sd = miniature()
    host, given = pack("nodes.host.inflate"), inputs(sd.model)
    unet = pack("nodes.host.weights").diffusers_unet(sd.model, CPU)
    tuned = tuned_weights(pack("tav_core.inflate").inflate(unet, **fields))
    model = host.with_tuned(sd.model, tuned)
    with_them, without = predict(model, *given), predict(host.inflate(model, temporal=False), *given)
    assert worst(without, with_them) > 0.01


def test_inflate_unet_refuses_temporal_layers_without_meaning_before_anything_runs():
    check = pack("nodes.inflate_unet").InflateUNet.validate_inputs
    assert check(temporal=True) is True  # as in a workflow that was saved before the others came
    assert "position_bias belongs to temporal attention" in check(temporal=False, position_bias=True)
    assert check(temporal=None, position_bias=True) is True  # linked


@pytest.mark.parametrize("name", ["forward_A", "forward_B"])
def test_the_hosts_own_unet_class_gives_what_the_original_does(name):
    case = golden.load(name)
    model = golden_model(case)
    for tag in case.settings["inputs"]:
        given = case.part(f"in.{tag}.")
        output = predict(model, given["sample"], given["timestep"], given["encoder_hidden_states"])
        assert worst(output, case[f"out.{tag}.sample"]) < 1e-4, tag


def golden_model(case):
    """A MODEL with the golden weights, inflated, with the golden temporal attention."""
    patcher, theirs = empty_model(case.config), case.part("unet2d.")
    names = pack("nodes.host.sd_model").host_names(patcher)
    patcher.model.load_state_dict({ours: theirs[name] for name, ours in names.items()}, strict=False)
    assert names.keys() == theirs.keys()
    host = pack("nodes.host.inflate")
    patcher, blocks = host.inflate(patcher), pack("nodes.host.sd_model").blocks_of(patcher, "transformer")
    additions = pack("tav_core.inflation").Inflation().additions
    added = pack("nodes.host.added").added_model(case.part("temp."), additions, blocks, torch.float32)
    patcher.set_additional_models(host.KEY, [added])
    return patcher


def empty_model(config: dict):
    """A MODEL over the host's UNet of a diffusers config; its 32 groups become 8 by other `operations`."""
    ops = core("comfy.ops").manual_cast

    class Operations(ops):
        class GroupNorm(ops.GroupNorm):
            def __init__(self, num_groups, *args, **kwargs):
                super().__init__(8, *args, **kwargs)

    channels, heads = config["block_out_channels"], config["attention_head_dim"]
    depth = [int("CrossAttn" in kind) for kind in config["down_block_types"]]
    unet_config = {
        "image_size": 32,
        "use_spatial_transformer": True,
        "legacy": False,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": channels[0],
        "num_res_blocks": [1] * len(channels),
        "channel_mult": [c // channels[0] for c in channels],
        "transformer_depth": depth,
        "transformer_depth_output": [d for d in depth for _ in range(2)],
        "transformer_depth_middle": 1,
        "context_dim": config["cross_attention_dim"],
        "use_linear_in_transformer": config.get("use_linear_projection", False),
        "dtype": torch.float32,
    }
    model_config = core("comfy.supported_models").SD15(unet_config)
    width = channels[0] // heads[0] if isinstance(heads, list) else -1
    model_config.unet_config |= {"num_heads": -1 if width > 0 else heads, "num_head_channels": width}
    model_config.custom_operations = Operations
    model = core("comfy.model_base").BaseModel(model_config, device=CPU)
    return core("comfy.model_patcher").ModelPatcher(model, CPU, CPU)


def test_query_differences_on_weights_in_8_bits_are_added_at_call_time(sd):
    load = core("comfy.sd").load_checkpoint_guess_config
    with torch.inference_mode():
        small = load(str(sd.path), model_options={"dtype": torch.float8_e4m3fn})[0]
    unet, inputs = diffusers_twin(small), (random(1, 4, 3, 8, 8), torch.tensor([300]), random(1, 77, 768))
    tuned = tuned_weights(unet)
    tuned.apply(unet)
    model = pack("nodes.host.inflate").with_tuned(small, tuned)
    assert small.model_dtype() == torch.float8_e4m3fn
    assert not model.patches
    assert worst(predict(model, *inputs), core_prediction(unet, *inputs)) < 1e-4


def control(models, *names: str):
    """Control networks on images for 3 frames of 64 x 64, chained as core's apply nodes do."""
    chained = None
    for seed, name in enumerate(names):
        net = core("comfy.controlnet").load_controlnet(str(models / "controlnet" / name))
        hint = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
        net = net.copy().set_cond_hint(hint, 0.7, (0.0, 1.0))
        net.set_previous_controlnet(chained)
        chained = net
    return chained


@pytest.mark.parametrize("names", [[CONTROLNET], [T2I_ADAPTER], [CONTROLNET, T2I_ADAPTER]], ids=len)
@torch.no_grad()
def test_control_gives_tuning_what_it_gives_the_host(sd, models, names):
    net = control(models, *names)
    positive = [[tensor, options | {"control": net}] for tensor, options in sd.text("a man is skiing")]
    model, seen = pack("nodes.host.inflate").inflate(sd.model), []
    timestep, latents = torch.tensor([400]), random(1, 4, 3, 8, 8)

    class Once(core("comfy.samplers").Sampler):
        def sample(self, guider, sigmas, extra_args, *_args, **_kwargs):
            sigma = guider.inner_model.model_sampling.sigmas[timestep]
            noisy = latents[0].movedim(1, 0) * (sigma**2 + 1).sqrt()
            clean = guider(noisy, sigma.expand(3), **extra_args)
            seen.append(((noisy - clean) / sigma).movedim(0, 1)[None].clone())
            return clean

    guider = core("comfy.samplers").CFGGuider(model)
    guider.inner_set_conds({"positive": positive})
    with torch.inference_mode():
        guider.sample(torch.zeros(3, 4, 8, 8), torch.zeros(3, 4, 8, 8), Once(), torch.tensor([1.0, 0.0]))
    unet, text = diffusers_twin(sd.model), positive[0][0].clone()
    with pack("nodes.host.control").residuals_of(net, model, {"c_crossattn": text}) as residuals:
        given = residuals(latents, timestep)
    plain, controlled = core_prediction(unet, latents, timestep, text), unet(latents, timestep, text, **given)
    assert worst(controlled, plain) > 0.01
    assert worst(controlled, seen[0]) < 1e-4
