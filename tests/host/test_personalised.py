"""Personalised and controlled models: a graph and the shell compute the same; what does not fit is refused at once."""

import logging
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from einops import rearrange
from safetensors.torch import save_file

from tests.golden import worst
from tests.host.assets import CHECKPOINT, CONTROLNET, LORA, PERSONALISED, T2I_ADAPTER, V_PREDICTION
from tests.host.inprocess import StableDiffusion, checkpoint, core, inputs, pack, predict
from tests.host.test_parity import control, diffusers_twin, random, tuned_weights
from tests.host.test_sampling import SCALE, inverted, relative, sampled
from tests.random_checkpoint import SD15_UNET

FRAMES = 3
SETTINGS = {"num_steps": 1, "mixed_precision": "no", "gradient_checkpointing": False}
EMPTY = {"samples": torch.zeros(FRAMES, 4, 8, 8)}
NETS = {"ControlNet": [CONTROLNET], "T2I-Adapter": [T2I_ADAPTER], "both": [CONTROLNET, T2I_ADAPTER]}


@pytest.fixture(scope="module")
def sd(models):
    return checkpoint(models / "checkpoints" / CHECKPOINT)


@pytest.fixture(scope="module")
def exact(models):
    """The checkpoint with its text encoder in float32; the host keeps it in fp16, and so what LoRAs make of it."""
    options = core("comfy.cli_args").args
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(options, "fp32_text_enc", True)
        path = models / "checkpoints" / CHECKPOINT
        loaded = core("comfy.sd").load_checkpoint_guess_config(str(path), output_vae=True, output_clip=True)
    return StableDiffusion(path, *loaded[:3])


@pytest.fixture(scope="module")
def sd2(models):
    return checkpoint(models / "checkpoints" / V_PREDICTION)


@pytest.fixture(scope="module")
def clip():
    return random(FRAMES, 4, 8, 8, seed=3, scale=5.0)


@pytest.fixture(scope="module")
def host():
    return pack("nodes.host.inflate")


def with_lora(sd, path, strength=0.8):
    """MODEL and CLIP as LoraLoader gives them."""
    lora = core("comfy.utils").load_torch_file(str(path))
    with torch.inference_mode():
        model, clip = core("comfy.sd").load_lora_for_models(sd.model, sd.clip, lora, strength, strength)
    return sd._replace(model=model, clip=clip)


def controlled(conditioning, net):
    return [[text, options | {"control": net}] for text, options in conditioning]


def shell(path, *, loras=(), weights=None):
    """Checkpoint and inflated network as `tav` opens them."""
    base = pack("tav_core.jobs.base").open_base(path, loras=loras)
    unet = pack("tav_core.inflate").inflate(base.checkpoint.unet)
    if weights:
        weights.apply(unet)
    return base.checkpoint, unet, base.fingerprint


def shell_controls(models, names):
    """The controls of test_parity's `control`, as `tav` opens them."""
    files = pack("tav_core.checkpoints.control_networks")
    opens = {CONTROLNET: files.open_controlnet, T2I_ADAPTER: files.open_t2i_adapter}
    return tuple(
        pack("tav_core.control").Control(
            opens[name](models / "controlnet" / name),
            torch.rand(FRAMES, 3, 64, 64, generator=torch.Generator().manual_seed(seed)),
            0.7,
        )
        for seed, name in enumerate(names)
    )


@pytest.mark.parametrize("nets", ["both"])
def test_a_lora_and_control_do_in_a_graph_what_they_do_in_the_shell(exact, host, models, clip, nets):
    """From the files on: text, UNet, LoRA on both, control, inversion, an edit under guidance."""
    ddim, path = pack("tav_core"), models / "loras" / LORA
    personalised, net = with_lora(exact, path), control(models, *NETS[nets])
    plain, unet, _ = shell(exact.path)
    weights = tuned_weights(unet)
    opened, unet, _ = shell(exact.path, loras=[pack("tav_core.checkpoints.lora").Lora(path, 0.8)], weights=weights)
    controls = shell_controls(models, NETS[nets])
    embeds = {text: opened.encode_prompt(text) for text in ("", "a man is skiing")}
    assert worst(personalised.text("a man is skiing")[0][0], embeds["a man is skiing"].embeds) < 1e-4
    assert worst(plain.encode_prompt("a man is skiing").embeds, embeds["a man is skiing"].embeds) > 0.01

    cond, uncond = (ddim.NoisePredictor(unet, embeds[t], opened.scheduler, controls) for t in ("a man is skiing", ""))
    latents = rearrange(clip * SCALE, "f c h w -> 1 c f h w")
    noise = ddim.invert(uncond, latents, opened.scheduler, 3)[-1]
    expected = ddim.sample(ddim.guided(cond, uncond, 3.0), noise, opened.scheduler, 3)

    model = host.with_tuned(personalised.model, weights)
    nothing, text = (controlled(personalised.text(t), net) for t in ("", "a man is skiing"))
    with torch.inference_mode():
        run = pack("nodes.host.ddim")
        latent = run.invert_latents(model, nothing, clip, 3)
        video = run.sample_latents(model, text, nothing, latent, 3, cfg=3.0, eta=0.0, seed=0)
    scale = opened.scheduler.alphas_cumprod[latent["tav_timestep"]] ** -0.5
    errors = (
        relative(latent["samples"] / scale, rearrange(noise, "1 c f h w -> f c h w") / SCALE),
        relative(video, rearrange(expected, "1 c f h w -> f c h w") / SCALE),
    )
    print(f"LoRA and {nets}: inversion {errors[0]:.1e}, edit {errors[1]:.1e} of the mean magnitude")
    assert max(errors) < 1e-4


@pytest.mark.parametrize("nets", NETS)
def test_control_enters_the_inflated_model_where_it_enters_the_plain_one(sd, host, models, nets):
    """An inflation in which each frame looks at itself alone is the plain model, also under control."""
    positive = controlled(sd.text("a man is skiing"), control(models, *NETS[nets]))
    inflated = host.inflate(sd.model, attention="frame", group_norm="frame")
    plain, same = (sampled(model, sd, EMPTY, 2, positive=positive) for model in (sd.model, inflated))
    assert relative(same, plain) < 1e-4
    assert relative(plain, sampled(sd.model, sd, EMPTY, 2)) > 1e-3


@pytest.mark.parametrize("nets", ["both"])
def test_tuning_under_control_is_tuning_in_the_shell(exact, host, models, clip, nets, tmp_path):
    """From the same clean latents, noise and timesteps, with a LoRA in place: the same losses, and the same weights."""
    lora, tune = models / "loras" / LORA, pack("tav_core.tune")
    personalised = with_lora(exact, lora)
    settings = tune.TuneConfig(num_steps=3, learning_rate=1e-3, mixed_precision="no", gradient_checkpointing=False)
    text = controlled(personalised.text("a man is skiing"), control(models, *NETS[nets]))
    with torch.inference_mode():
        weights, losses, _ = pack("nodes.host.tuning").tune_model(
            host.inflate(personalised.model),
            clip,
            text,
            settings,
            root=tmp_path,
            metadata={},
            on_step=lambda *_, **__: 0,
        )
    opened, unet, base = shell(exact.path, loras=[pack("tav_core.checkpoints.lora").Lora(lora, 0.8)])
    controls, embeds = shell_controls(models, NETS[nets]), opened.encode_prompt("a man is skiing")
    residuals = pack("tav_core.control").residuals
    report = tune.tune(
        unet,
        rearrange(clip * SCALE, "f c h w -> 1 c f h w"),
        embeds,
        core("diffusers").DDPMScheduler.from_config(opened.scheduler.config),
        settings,
        control=lambda noisy, timesteps: residuals(controls, noisy, timesteps, embeds),
    )
    assert losses == pytest.approx(report.losses, rel=1e-4)
    assert weights.facts.base_fingerprint == base
    theirs = pack("tav_core.tuned").TunedWeights.from_unet(unet).tensors
    # not the largest difference: where a gradient is all rounding, Adam makes a whole step of it (reference-facts, 36)
    error = max(
        ((tensor - theirs[name]).norm() / theirs[name].norm()).item() for name, tensor in weights.tensors.items()
    )
    print(f"tuned with a LoRA and {nets}: losses alike, weights to {error:.1e} of their norm")
    assert error < 0.02
    assert weights.facts.checkpoint in (CHECKPOINT, None)


def test_prompts_and_masks_per_frame_reach_their_frames(sd, host, models, clip):
    """A batch of texts, as packs that schedule prompts give it, is tav_core's text per frame; masks weigh frames."""
    unet, prompts = shell(sd.path)[1], ["a man is skiing", "a dog", "a red ball"]
    texts = torch.cat([sd.text(prompt)[0][0] for prompt in prompts])
    scheduler, ddim = pack("nodes.host.ddim").ddim_scheduler(sd.model), pack("tav_core")
    noise = rearrange(clip * SCALE, "f c h w -> 1 c f h w")
    predict = ddim.NoisePredictor(unet, rearrange(texts.clone(), "f n d -> 1 f n d"), scheduler)
    expected = rearrange(ddim.invert(predict, noise, scheduler, 4)[-1], "1 c f h w -> f c h w")
    model, per_frame = host.inflate(sd.model), [[texts, sd.text("")[0][1]]]
    with torch.inference_mode():
        latent = pack("nodes.host.ddim").invert_latents(model, per_frame, clip, 4)
    scale = scheduler.alphas_cumprod[latent["tav_timestep"]] ** -0.5
    assert relative(latent["samples"] / scale, expected / SCALE) < 1e-4

    first = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 64, 64)
    masked = [
        [text, options | {"mask": mask, "mask_strength": 1.0}]
        for prompt, mask in (("a man is skiing", first), ("a dog", 1 - first))
        for text, options in sd.text(prompt)
    ]
    whole, by_masks = (sampled(host.inflate(sd.model), sd, EMPTY, 1, positive=p) for p in (sd.text("a dog"), masked))
    gone = (by_masks - whole).abs().amax(dim=(1, 2, 3))
    assert gone[0] > 1e-3  # one step, in which no frame has seen yet what became of another
    assert gone[1:].max() < 1e-4


# Families


@pytest.fixture(scope="module")
def opened2(sd2):
    """The checkpoint of Stable Diffusion 2.x as `tav` opens it, its network inflated, and weights that are on it."""
    opened, unet, _ = shell(sd2.path)
    weights = tuned_weights(unet)
    weights.apply(unet)
    return opened, unet, weights


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_stable_diffusion_2_is_inverted_and_edited_as_in_the_shell(sd2, opened2, host, clip, predicts):
    """768 wide images or not, the two kinds differ in what they predict alone."""
    ddim, model, (opened, unet, weights) = pack("tav_core"), sd2.model, opened2
    opened = pack("tav_core.jobs.base").Base(sd2.path, opened, "").predicting(predicts).checkpoint
    if predicts == "v_prediction":
        (model,) = core("comfy_extras.nodes_model_advanced").ModelSamplingDiscrete().patch(model, predicts, False)
    assert pack("nodes.host.sd_model").family_of(model) == opened.family == "sd2"
    embeds = {text: opened.encode_prompt(text) for text in ("", "a man is skiing")}
    assert worst(sd2.text("a man is skiing")[0][0], embeds["a man is skiing"].embeds) < 1e-4
    cond, uncond = (ddim.NoisePredictor(unet, embeds[t], opened.scheduler) for t in ("a man is skiing", ""))
    noise = ddim.invert(uncond, rearrange(clip * SCALE, "f c h w -> 1 c f h w"), opened.scheduler, 3)[-1]
    expected = ddim.sample(ddim.guided(cond, uncond, 3.0), noise, opened.scheduler, 3)
    model = host.with_tuned(model, weights)
    latent = inverted(model, sd2, clip, 3)
    video = sampled(model, sd2, latent, 3)
    error = relative(video, rearrange(expected, "1 c f h w -> f c h w") / SCALE)
    print(f"SD 2.x, {predicts}: {error:.1e} of the mean magnitude")
    assert error < 1e-4


def test_weights_of_one_family_do_not_go_onto_another(sd, sd2, host):
    weights = tuned_weights(diffusers_twin(sd.model))
    weights = replace(weights, facts=replace(weights.facts, family="sd1"))
    with pytest.raises(ValueError, match=r"tuned on Stable Diffusion 1\.x, but this is Stable Diffusion 2\.x"):
        host.with_tuned(sd2.model, weights)


# Siblings


def test_weights_on_a_sibling_are_warned_of_in_the_node_and_in_the_log(sd, models, host, caplog):
    sibling, warn = checkpoint(models / "checkpoints" / PERSONALISED), pack("nodes.host.differences").warn_of_sibling
    weights = tuned_weights(diffusers_twin(sd.model))
    base = pack("nodes.host.weights").base_fingerprint(sd.model)
    weights = replace(weights, facts=replace(weights.facts, base_fingerprint=base, checkpoint=CHECKPOINT))
    with caplog.at_level(logging.WARNING):
        assert warn(sd.model, weights, None) is None
        assert warn(with_lora(sd, models / "loras" / LORA).model, weights, None) is None
        assert not caplog.records
        note = warn(sibling.model, weights, None)
    assert CHECKPOINT in note
    assert PERSONALISED in note
    assert base[:12] in note
    assert caplog.records[0].getMessage().endswith(note)


def test_strength_on_a_sibling_goes_from_its_own_network_to_the_tuned_one(sd, models, host):
    sibling = checkpoint(models / "checkpoints" / PERSONALISED)
    weights, given = tuned_weights(diffusers_twin(sd.model)), inputs(sibling.model)
    at = {s: predict(host.with_tuned(sibling.model, weights, s), *given) for s in (0.0, 0.5, 1.0)}
    assert torch.equal(at[0.0], predict(host.inflate(sibling.model), *given))
    gone = [worst(at[s], at[0.0]) for s in (0.5, 1.0)]
    assert 0.01 < gone[0] < gone[1]


# What does not fit


@pytest.mark.parametrize("name", [CONTROLNET, T2I_ADAPTER])
@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 3, 64, 64), "2 ControlNet images for 3 frames"), ((3, 3, 64, 128), "128x64, but the video is 64x64")],
)
def test_control_images_of_another_count_or_shape_are_refused_before_any_work(
    sd, host, models, clip, name, shape, message, tmp_path
):
    net = control(models, name)
    net.cond_hint_original = torch.zeros(shape)
    text, model = controlled(sd.text("a man"), net), host.inflate(sd.model)
    with pytest.raises(ValueError, match=message):
        sampled(model, sd, EMPTY, 1, positive=text)
    with pytest.raises(ValueError, match=message), torch.inference_mode():
        pack("nodes.host.ddim").invert_latents(model, text, clip, 1)
    tune, settings = pack("nodes.host.tuning").tune_model, pack("tav_core.tune").TuneConfig(**SETTINGS)
    with pytest.raises(ValueError, match=message), torch.inference_mode():
        tune(model, clip, text, settings, root=tmp_path, metadata={}, on_step=print)
    assert not list(tmp_path.iterdir())


def test_one_image_for_all_frames_and_larger_ones_of_the_same_shape_are_taken(sd, host, models):
    net = control(models, CONTROLNET)
    image = random(1, 3, 128, 128).sigmoid()
    videos = []
    for hint in (image, image.repeat(3, 1, 1, 1)):
        net.cond_hint_original = hint
        videos.append(sampled(host.inflate(sd.model), sd, EMPTY, 1, positive=controlled(sd.text("a man"), net)))
    assert relative(*videos) < 1e-5


def test_a_controlnet_of_another_family_is_named(sd, sd2, host, models):
    net = control(models, CONTROLNET)
    text = controlled(sd2.text("a man"), net)
    with pytest.raises(ValueError, match=r"for Stable Diffusion 1\.x, but the checkpoint is Stable Diffusion 2\.x"):
        sampled(host.inflate(sd2.model), sd2, EMPTY, 1, positive=text)
    net.control_model.label_emb = torch.nn.Sequential(torch.nn.Linear(2, 2))  # of SDXL's
    try:
        with pytest.raises(ValueError, match="is a ControlNet for Stable Diffusion XL"):
            sampled(host.inflate(sd.model), sd, EMPTY, 1, positive=controlled(sd.text("a man"), net))
    finally:
        del net.control_model.label_emb


def test_an_adapter_and_a_control_lora_of_sdxl_are_named(sd, host, models):
    """The host would add the features that fit by chance, and fail in the middle of sampling."""
    adapter = control(models, T2I_ADAPTER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter.t2i_model, "unshuffle_amount", 16)
        with pytest.raises(ValueError, match="is a T2I-Adapter for Stable Diffusion XL"):
            sampled(host.inflate(sd.model), sd, EMPTY, 1, positive=controlled(sd.text("a man"), adapter))
    weights = {"input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(640, 2048)}
    lora = core("comfy.controlnet").ControlLora(weights).set_cond_hint(torch.zeros(3, 3, 64, 64))
    with pytest.raises(ValueError, match="is a ControlNet for Stable Diffusion XL"):
        sampled(host.inflate(sd.model), sd, EMPTY, 1, positive=controlled(sd.text("a man"), lora))


def test_a_prompt_for_the_controlnet_alone_is_used_in_tuning(sd, host, models, clip, tmp_path):
    text = controlled(sd.text("a man"), control(models, CONTROLNET))
    with_own = [[embeds, options | {"cross_attn_controlnet": sd.text("a dog")[0][0]}] for embeds, options in text]
    settings, losses = pack("tav_core.tune").TuneConfig(**SETTINGS), []
    for positive in (text, with_own):
        with torch.inference_mode():
            tuned = pack("nodes.host.tuning").tune_model(
                host.inflate(sd.model), clip, positive, settings, root=tmp_path, metadata={}, on_step=lambda *_, **__: 0
            )
        losses.append(tuned[1])
    assert losses[0] != losses[1]


@pytest.mark.parametrize(("width", "family"), [(2048, "Stable Diffusion XL"), (1024, r"Stable Diffusion 2\.x")])
def test_a_lora_of_another_family_is_named_before_the_inflation_and_behind_it(sd, host, clip, width, family, tmp_path):
    """The host applies what fits by chance, and logs the rest."""
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
    tensors = {}
    for layer, into in (("attn1_to_q", 320), ("attn2_to_k", width)):
        tensors |= {f"{name}_{layer}.lora_down.weight": torch.ones(2, into)}
        tensors |= {f"{name}_{layer}.lora_up.weight": torch.ones(320, 2)}
    save_file(tensors, tmp_path / "lora.safetensors")
    message = f"was made for {family}.*remove it"
    with pytest.raises(ValueError, match=message):
        host.inflate(sd.with_lora(tmp_path / "lora.safetensors"))
    behind = sd.with_lora(tmp_path / "lora.safetensors", host.inflate(sd.model))
    with pytest.raises(ValueError, match=message):
        inverted(behind, sd, clip, 1)
    with pytest.raises(ValueError, match=message):
        sampled(behind, sd, EMPTY, 1)


SD2_UNET = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}


@pytest.mark.parametrize(("family", "changes"), [("sd1", {}), ("sd2", SD2_UNET)])
def test_a_diffusers_folder_of_full_size_is_inflated_with_its_own_weights(host, tmp_path, family, changes):
    """The host knows such folders by the sizes of whole families, so that only a whole one will do."""
    with torch.device("meta"):
        empty = UNet2DConditionModel.from_config(SD15_UNET | changes).state_dict()
    folder = tmp_path / family / "unet"
    folder.mkdir(parents=True)
    # of each its own value, for 860 million draws take longest
    tensors = {
        name: torch.full(t.shape, number / 1024, dtype=torch.half) for number, (name, t) in enumerate(empty.items())
    }
    save_file(tensors, folder / "diffusion_pytorch_model.fp16.safetensors")
    with torch.inference_mode():
        model, *_ = core("comfy.diffusers_load").load_diffusers(str(folder.parent), output_vae=False, output_clip=False)
    inflated, names = host.inflate(model), pack("nodes.host.sd_model").host_names(model)
    assert pack("nodes.host.sd_model").family_of(inflated) == family
    assert names.keys() == tensors.keys()
    stored = model.model.state_dict()
    assert all(torch.equal(stored[names[name]].half(), tensor) for name, tensor in tensors.items())
    config = pack("nodes.host.weights").diffusers_config(model.model.model_config.unet_config)
    expected = SD15_UNET | {"use_linear_projection": False} | changes
    assert {name: config[name] for name in expected} == expected
    assert pack("nodes.host.weights").base_fingerprint(inflated) == pack("tav_core.fingerprints").fingerprint_of(
        tensors
    )
