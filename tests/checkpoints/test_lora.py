"""LoRA files: one change of weights in every key style seen in the wild, fused; and what is refused."""

import json
import re
import sys

import pytest
import torch
from safetensors.torch import save_file

from tav_core import TavError, load_checkpoint
from tav_core.checkpoints.lora import Lora, fuse_loras
from tav_core.checkpoints.lora_file import read_lora
from tests.random_checkpoint import TINY_SD2_UNET, TINY_UNET, original_unet_name, write_random_checkpoint

RANK, STRENGTH = 4, 0.7
UNETS = {"tiny": TINY_UNET, "tiny-sd2": TINY_SD2_UNET}
# A text encoder's projections under the names that diffusers gave them before it took peft's.
OLD_PROJECTIONS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


@pytest.fixture(scope="module", params=UNETS)
def size(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Paths of a tiny checkpoint of each family."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for size in UNETS:
        write_random_checkpoint(folder / f"{size}.safetensors", size=size)
    return {size: folder / f"{size}.safetensors" for size in UNETS}


def opened(path):
    return load_checkpoint(path, dtype=torch.float32)


def weights(checkpoint) -> dict[str, torch.Tensor]:
    """All weights by network and diffusers' name; the text encoder's always with its old first level."""
    unet = {f"unet.{name}": tensor for name, tensor in checkpoint.unet.state_dict().items()}
    text = checkpoint.text_encoder.state_dict().items()
    text = {f"text_encoder.text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in text}
    return {name: tensor.clone() for name, tensor in (unet | text).items()}


def attentions(checkpoint) -> list[str]:
    """The layers that every trainer changes: attention projections of both networks."""
    return [
        n.removesuffix(".weight")
        for n in weights(checkpoint)
        if re.search(r"(\.attn\d\..*|self_attn.*_proj)\.weight$", n)
    ]


def convolutions(checkpoint) -> list[str]:
    """What those that also change convolutions, feed-forwards and time embeddings take besides."""
    return [
        name.removesuffix(".weight")
        for name, tensor in weights(checkpoint).items()
        if name.startswith("unet.") and name.endswith(".weight") and tensor.ndim > 1 and ".attn" not in name
    ]


def change(checkpoint, layers, seed=0) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layer -> (down, up)."""
    generator, shapes = torch.Generator().manual_seed(seed), weights(checkpoint)
    draw = lambda *shape: torch.randn(shape, generator=generator) / RANK  # noqa: E731
    parts = {}
    for layer in layers:
        out, into, *kernel = shapes[f"{layer}.weight"].shape
        parts[layer] = draw(RANK, into, *kernel), draw(out, RANK, *[1 for _ in kernel])
    return parts


def changed(before, parts, scale):
    """What the weights should be: W + scale * up @ down."""
    after = dict(before)
    for layer, (down, up) in parts.items():
        weight = before[f"{layer}.weight"]
        after[f"{layer}.weight"] = weight + scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    return after


def kohya(layer: str) -> str:
    return layer.replace("text_encoder.", "lora_te_").replace("unet.", "lora_unet_").replace(".", "_")


def kohya_style(parts, config, alpha=RANK):
    tensors = {}
    for layer, (down, up) in parts.items():
        tensors |= {
            f"{kohya(layer)}.lora_down.weight": down,
            f"{kohya(layer)}.lora_up.weight": up,
            f"{kohya(layer)}.alpha": torch.tensor(float(alpha)),
        }
    return tensors


def original_blocks_style(parts, config):
    """kohya's, with the UNet's blocks as Stable Diffusion's own code counts them."""
    renamed = {
        f"unet.{original_unet_name(layer.removeprefix('unet.') + '.', config)[:-1]}"
        if layer.startswith("unet.")
        else layer: part
        for layer, part in parts.items()
    }
    return kohya_style(renamed, config)


def peft_style(parts, config):
    named = {layer: (f"{layer}.lora_A.weight", f"{layer}.lora_B.weight") for layer in parts}
    return {name: part for layer, names in named.items() for name, part in zip(names, parts[layer], strict=True)}


def adapters_style(parts, config):
    """peft's, with the name that it gives an adapter which has none."""
    return {name.replace(".weight", ".default.weight"): part for name, part in peft_style(parts, config).items()}


def dotted_style(parts, config):
    """kohya's words behind diffusers' names."""
    words = {".lora_A": ".lora_down", ".lora_B": ".lora_up"}
    return {
        re.sub(r"\.lora_[AB]", lambda m: words[m[0]], name): part for name, part in peft_style(parts, config).items()
    }


def diffusers_style(parts, config):
    """Of 2023: `.lora.down` in the UNet, `.lora_linear_layer.down` in the text encoder."""
    tensors = {}
    for layer, (down, up) in parts.items():
        lora = "lora" if layer.startswith("unet.") else "lora_linear_layer"
        tensors |= {f"{layer}.{lora}.down.weight": down, f"{layer}.{lora}.up.weight": up}
    return tensors


def processors_style(parts, config):
    """Of diffusers' first LoRAs: `.processor.to_q_lora.down`."""
    tensors = {}
    for layer, (down, up) in parts.items():
        block, _, name = layer.removesuffix(".0").rpartition(".")
        block = f"{block}.processor" if layer.startswith("unet.") else block
        name = OLD_PROJECTIONS.get(name, name)
        tensors |= {f"{block}.{name}_lora.down.weight": down, f"{block}.{name}_lora.up.weight": up}
    return tensors


STYLES = {
    "kohya": kohya_style,
    "original blocks": original_blocks_style,
    "peft": peft_style,
    "peft's adapters": adapters_style,
    "dotted": dotted_style,
    "diffusers": diffusers_style,
    "processors": processors_style,
}


@pytest.fixture
def fused(written, size, tmp_path):
    """Writes tensors to a file and fuses them; gives the weights before and after."""

    def fuse(make, layers=attentions, strength=STRENGTH):
        checkpoint = opened(written[size])
        before, parts = weights(checkpoint), change(checkpoint, layers(checkpoint))
        save_file({k: v.contiguous() for k, v in make(parts).items()}, tmp_path / "lora.safetensors")
        fuse_loras(checkpoint, [Lora(tmp_path / "lora.safetensors", strength)])
        return before, parts, weights(checkpoint)

    return fuse


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name in got:
        torch.testing.assert_close(got[name], expected[name], atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("style", STYLES)
def test_every_key_style_is_the_same_change(fused, size, style):
    before, parts, after = fused(lambda parts: STYLES[style](parts, UNETS[size]))
    assert len(parts) > 30
    assert any("text_encoder" in layer for layer in parts)
    assert_same(after, changed(before, parts, STRENGTH))


@pytest.mark.parametrize("size", ["tiny"], indirect=True)
@pytest.mark.parametrize("style", ["kohya", "peft", "dotted", "processors"])
@pytest.mark.parametrize("part", [r"self_attn\.[qkv]_proj", r"mlp\.fc1"])
def test_a_text_encoder_is_changed_layer_by_layer_whichever_they_are(fused, size, style, part):
    """diffusers infers the key style of a text encoder from one of its layers, which these files do not have."""

    def some(checkpoint):
        text = re.compile(rf"text_encoder\..*\.{part}\.weight")
        of_unet = [layer for layer in attentions(checkpoint) if layer.startswith("unet.")]
        return [*of_unet[:3], *(name.removesuffix(".weight") for name in weights(checkpoint) if text.fullmatch(name))]

    before, parts, after = fused(lambda parts: STYLES[style](parts, UNETS[size]), some)
    assert len(parts) > 4
    assert_same(after, changed(before, parts, STRENGTH))


@pytest.mark.parametrize("size", ["tiny"], indirect=True)
@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_a_unet_s_lora_that_does_not_say_so_is_taken_for_one(fused, size, prefix):
    layers = lambda checkpoint: [layer for layer in attentions(checkpoint) if layer.startswith("unet.")]  # noqa: E731
    make = peft_style if prefix else processors_style
    rename = lambda parts: {f"{prefix}{k[5:]}": v for k, v in make(parts, UNETS[size]).items()}  # noqa: E731
    before, parts, after = fused(rename, layers)
    assert_same(after, changed(before, parts, STRENGTH))


def test_convolutions_feed_forwards_and_time_embeddings_are_changed_too(fused, size):
    before, parts, after = fused(lambda parts: kohya_style(parts, UNETS[size]), convolutions)
    assert {"unet.conv_in", "unet.time_embedding.linear_1", "unet.down_blocks.0.downsamplers.0.conv"} <= parts.keys()
    assert_same(after, changed(before, parts, STRENGTH))


def per_layer(parts):
    """Other ranks and alphas from layer to layer, as resized and block-wise LoRAs have them, and what they change."""
    ranks = {layer: 1 + number % RANK for number, layer in enumerate(parts)}
    alphas = {layer: 0.5 + number % 3 for number, layer in enumerate(parts)}
    cut = {layer: (down[: ranks[layer]], up[:, : ranks[layer]]) for layer, (down, up) in parts.items()}
    scaled = {layer: (down, up * alphas[layer] / ranks[layer]) for layer, (down, up) in cut.items()}
    return cut, alphas, scaled


@pytest.mark.parametrize("style", ["kohya", "peft", "dotted"])
def test_each_layer_is_scaled_by_its_own_alpha_and_rank(fused, size, style):
    def make(parts):
        cut, alphas, _ = per_layer(parts)
        named = {layer: kohya(layer) if style == "kohya" else layer for layer in parts}
        own = {f"{named[layer]}.alpha": torch.tensor(alpha) for layer, alpha in alphas.items()}
        return STYLES[style](cut, UNETS[size]) | own

    before, parts, after = fused(make, lambda checkpoint: attentions(checkpoint) + convolutions(checkpoint))
    assert_same(after, changed(before, per_layer(parts)[2], STRENGTH))


@pytest.mark.parametrize("size", ["tiny"], indirect=True)
@pytest.mark.parametrize("style", ["peft", "diffusers", "processors"])
def test_without_alphas_ranks_may_differ_from_layer_to_layer(fused, size, style):
    before, parts, after = fused(lambda parts: STYLES[style](per_layer(parts)[0], UNETS[size]))
    assert_same(after, changed(before, per_layer(parts)[0], STRENGTH))


@pytest.mark.parametrize("size", ["tiny"], indirect=True)
def test_half_precision_files_are_taken(fused, size):
    half = lambda parts: {k: v.half() for k, v in kohya_style(parts, UNETS[size], alpha=1).items()}  # noqa: E731
    before, parts, after = fused(half)
    rounded = {layer: (down.half().float(), up.half().float()) for layer, (down, up) in parts.items()}
    assert_same(after, changed(before, rounded, STRENGTH / RANK))


@pytest.mark.parametrize("rslora", [False, True])
def test_alphas_in_the_header_of_diffusers_and_in_the_file_of_peft_scale(written, tmp_path, rslora):
    """One for all layers, with another for some; on a "rank-stabilised" LoRA by the root of the rank."""
    settings = {"lora_alpha": 8, "alpha_pattern": {"mid_block.attentions.0.proj_in": 2}, "use_rslora": rslora}
    root = RANK**0.5 if rslora else RANK
    layers = ["unet.mid_block.attentions.0.proj_in", "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"]
    scales = dict(zip(layers, (2 / root, 8 / root), strict=True))
    for name in ("pytorch_lora_weights.safetensors", "adapter_model.safetensors"):
        checkpoint = opened(written["tiny"])
        before, parts = weights(checkpoint), change(checkpoint, layers)
        header = {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in settings.items()})}
        if name.startswith("adapter"):
            (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
            header = None
        save_file(peft_style(parts, None), tmp_path / name, header)
        fuse_loras(checkpoint, [Lora(tmp_path / name)])
        expected = {layer: (down, scales[layer] * up) for layer, (down, up) in parts.items()}
        assert_same(weights(checkpoint), changed(before, expected, 1.0))


def test_the_text_layer_that_stable_diffusion_2_leaves_out_is_left_out_of_a_lora(written, tmp_path):
    checkpoint = opened(written["tiny-sd2"])
    before, parts = weights(checkpoint), change(checkpoint, attentions(checkpoint))
    last = {k.replace("layers_1_", "layers_2_"): v for k, v in kohya_style(parts, None).items() if "layers_1_" in k}
    save_file({k: v.clone() for k, v in (kohya_style(parts, None) | last).items()}, tmp_path / "lora.safetensors")
    assert last
    fuse_loras(checkpoint, [Lora(tmp_path / "lora.safetensors")])
    assert_same(weights(checkpoint), changed(before, parts, 1.0))


def test_several_add_up_and_a_strength_of_0_is_none(written, tmp_path):
    checkpoint = opened(written["tiny"])
    before, expected = weights(checkpoint), weights(checkpoint)
    loras = []
    for seed, strength in ((1, 0.5), (2, 0.0), (3, -0.25)):
        parts = change(checkpoint, attentions(checkpoint), seed)
        save_file(kohya_style(parts, TINY_UNET), tmp_path / f"{seed}.safetensors")
        loras.append(Lora(tmp_path / f"{seed}.safetensors", strength))
        expected = changed(expected, parts, strength)
    fuse_loras(checkpoint, loras)
    assert_same(weights(checkpoint), expected)
    assert any(not torch.equal(before[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("network", ["unet.", "text_encoder.", ""])
def test_afterwards_the_networks_are_plain_and_frozen_and_nothing_was_said(written, tmp_path, capfd, network):
    """Of a LoRA for one of them, or for both."""
    checkpoint = opened(written["tiny"])
    parts = change(checkpoint, [layer for layer in attentions(checkpoint) if layer.startswith(network)])
    save_file(kohya_style(parts, TINY_UNET), tmp_path / "lora.safetensors")
    kinds = [type(module) for module in checkpoint.unet.modules()]
    before = weights(checkpoint)
    capfd.readouterr()
    fuse_loras(checkpoint, [Lora(tmp_path / "lora.safetensors")])
    assert_same(weights(checkpoint), changed(before, parts, 1.0))
    assert [type(module) for module in checkpoint.unet.modules()] == kinds
    assert not any(p.requires_grad for n in (checkpoint.unet, checkpoint.text_encoder) for p in n.parameters())
    assert [checkpoint.unet.training, checkpoint.text_encoder.training] == [False, False]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:1.", "a.safetensors", 1.0),
        ("a.safetensors:+0.5", "a.safetensors", 0.5),
        ("folder/a.safetensors:-.5", "folder/a.safetensors", -0.5),
        ("C:/loras/a.safetensors:1", "C:/loras/a.safetensors", 1.0),
        ("C:/loras/a.safetensors", "C:/loras/a.safetensors", 1.0),
    ],
)
def test_a_strength_stands_behind_a_colon(text, path, strength):
    lora = Lora.parse(text)
    assert (lora.path.as_posix(), lora.strength) == (path, strength)


def sdxl(parts):
    return {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": torch.zeros(4, 2048)}


REFUSED = {
    "of SDXL": (sdxl, r"for Stable Diffusion XL: choose one made for Stable Diffusion 1\.x or 2\.x"),
    "of SDXL's second encoder": (
        lambda parts: {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(4, 1280)},
        "for Stable Diffusion XL",
    ),
    "of Flux": (
        lambda parts: {"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": torch.zeros(4, 3072)},
        "such as Flux",
    ),
    "of the other family": (
        lambda parts: {
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": torch.zeros(4, 1024)
        },
        r"for Stable Diffusion 2\.x, but the checkpoint is Stable Diffusion 1\.x",
    ),
    "half of a layer": (
        lambda parts: dict(list(peft_style(parts, None).items())[:-1]),
        r"applied only in part, because text_encoder\..*out_proj is incomplete",
    ),
    "with what nobody knows": (
        lambda parts: peft_style(parts, None) | {"unet.mid_block.lora_magic": torch.zeros(1)},
        "applied only in part, because unet.mid_block.lora_magic is incomplete or unknown",
    ),
    "with biases": (
        lambda parts: peft_style(parts, None) | {f"{next(iter(parts))}.lora_B.bias": torch.zeros(4)},
        "is a LoRA with biases",
    ),
    "of layers that are not there": (
        lambda parts: (
            kohya_style(parts, None)
            | {
                "lora_unet_down_blocks_7_attentions_0_proj_in.lora_down.weight": torch.zeros(4, 32, 1, 1),
                "lora_unet_down_blocks_7_attentions_0_proj_in.lora_up.weight": torch.zeros(32, 4, 1, 1),
            }
        ),
        "does not fit|of which this checkpoint has",
    ),
    "of other widths": (
        lambda parts: {k: v[..., :-1] if "lora_down" in k else v for k, v in kohya_style(parts, None).items()},
        "does not fit this checkpoint",
    ),
    "LoHa": (lambda parts: {"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.zeros(4, 4)}, "is a LoHa"),
    "LoKr": (lambda parts: {"lora_unet_mid_block_attentions_0_proj_in.lokr_w1": torch.zeros(4, 4)}, "is a LoKr"),
    "DoRA": (
        lambda parts: kohya_style(parts, None) | {f"{kohya(next(iter(parts)))}.dora_scale": torch.zeros(1, 4)},
        "is a DoRA",
    ),
    "no LoRA": (lambda parts: {"conv.weight": torch.zeros(4)}, "is not a LoRA"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_fused_whole_is_refused_and_nothing_is_changed(written, tmp_path, case):
    make, message = REFUSED[case]
    checkpoint = opened(written["tiny"])
    before = weights(checkpoint)
    layers = [layer for layer in attentions(checkpoint) if "attn2" not in layer]
    tensors = {key: tensor.contiguous() for key, tensor in make(change(checkpoint, layers)).items()}
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(TavError, match=message) as caught:
        fuse_loras(checkpoint, [Lora(tmp_path / "lora.safetensors")])
    assert "\n" not in str(caught.value)
    assert_same(weights(checkpoint), before)


def test_a_file_that_is_not_there_or_not_whole_is_refused(written, tmp_path):
    checkpoint = opened(written["tiny"])
    (tmp_path / "half.safetensors").write_bytes(b"12345678")
    (tmp_path / "lora.ckpt").touch()
    for name, message in {
        "none.safetensors": "no LoRA at .*FILE:STRENGTH",
        "half.safetensors": "not a complete",
        "lora.ckpt": "not a .safe",
    }.items():
        with pytest.raises(TavError, match=message):
            fuse_loras(checkpoint, [Lora(tmp_path / name)])
    with pytest.raises(TavError, match="strength of a LoRA"):
        Lora(tmp_path / "half.safetensors", 100.0)


def test_without_peft_the_error_names_what_to_install(written, tmp_path, monkeypatch):
    checkpoint = opened(written["tiny"])
    save_file(kohya_style(change(checkpoint, attentions(checkpoint)), None), tmp_path / "lora.safetensors")
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(TavError, match="pip install 'peft"):
        fuse_loras(checkpoint, [Lora(tmp_path / "lora.safetensors")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda key, t: t * torch.nan if "lora_down" in key else t, "holds NaN or infinite values"),
        (lambda key, t: t.long() if "lora_down" in key else t, "holds torch.int64 instead of weights"),
        (lambda key, t: t[:0] if "lora_down" in key else t[:, :0] if "up" in key else t, "has the shapes"),
        (lambda key, t: torch.ones(2) if "alpha" in key else t, "is not one number"),
        (lambda key, t: torch.tensor(torch.nan) if "alpha" in key else t, "is not one number"),
    ],
)
def test_a_lora_that_holds_no_numbers_is_refused(checkpoint_of_a_lora, tmp_path, change, message):
    tensors = {key: change(key, t).contiguous() for key, t in checkpoint_of_a_lora.items()}
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(TavError, match=message):
        read_lora(tmp_path / "lora.safetensors", "sd1")


@pytest.fixture
def checkpoint_of_a_lora() -> dict[str, torch.Tensor]:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{layer}.lora_down.weight": torch.ones(4, 768), f"{layer}.lora_up.weight": torch.ones(32, 4)}
    return tensors | {f"{layer}.alpha": torch.tensor(4.0)}


@pytest.mark.parametrize("settings", ["[1]", "[" * 9000, '{"lora_alpha": "4"}', '{"alpha_pattern": [1]}', "{"])
def test_settings_beside_a_lora_that_make_no_sense_are_refused(checkpoint_of_a_lora, tmp_path, settings):
    save_file(checkpoint_of_a_lora, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(settings)
    with pytest.raises(TavError, match="settings of adapter_model"):
        read_lora(tmp_path / "adapter_model.safetensors", "sd1")
