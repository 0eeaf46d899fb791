"""Windows of frames on a MODEL, against tav_core's."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import DDPMScheduler
from einops import rearrange

from tests.host.inprocess import core, executed, miniature, pack
from tests.host.test_keep import CLIP_PROMPT, EDIT, graph, keeping
from tests.host.test_parity import diffusers_twin, random
from tests.host.test_sampling import (
    core_scheduler,
    from_core,
    inverted,
    predictor,
    relative,
    sampled,
    to_core,
    with_random_weights,
)
from tests.host.test_tuning_runs import config, tune

FRAMES, LENGTH, OVERLAP, STEPS = 7, 4, 1, 4


@pytest.fixture(scope="module")
def sd():
    return miniature()


@pytest.fixture(scope="module")
def tuned(sd):
    """A tuned MODEL, the same in windows, and tav_core's network with the same weights."""
    model, unet = with_random_weights(sd)
    return model, divided(model), unet


@pytest.fixture(scope="module")
def clip():
    return random(FRAMES, 4, 8, 8, seed=3, scale=5.0)


def divided(model, length=LENGTH, overlap=OVERLAP):
    return executed(pack("nodes.video_windows").VideoWindows, model, length, overlap).args[0]


def watched(model):
    """The MODEL, and the sizes of the batches that its network sees."""
    model, seen = model.clone(), []

    def watch(executor, x, *args, **kwargs):
        seen.append(len(x))
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(core("comfy.patcher_extension").WrappersMP.APPLY_MODEL, "watch", watch)
    return model, seen


def core_windows():
    return pack("tav_core.windows").Windows(LENGTH, OVERLAP)


def windowed(predict):
    return pack("tav_core.windows").windowed(predict, core_windows())


def inverted_by_core(sd, unet, model, clip):
    scheduler, ddim = core_scheduler(model), pack("tav_core.ddim")
    empty = predictor(unet, sd.text(""), scheduler)
    return ddim.source_path(ddim.invert(windowed(empty), to_core(clip), scheduler, STEPS), scheduler, STEPS)


def test_inversion_and_an_edit_in_windows_are_tav_cores(sd, tuned, clip):
    plain, model, unet = tuned
    path = inverted_by_core(sd, unet, model, clip)
    latent = inverted(model, sd, clip, STEPS)
    trajectory = rearrange(path.trajectory, "n 1 c f h w -> n f c h w")
    assert relative(latent["tav_trajectory"], trajectory) < 1e-3
    cond, empty = (predictor(unet, sd.text(text), core_scheduler(model)) for text in (EDIT, ""))
    predict = windowed(pack("tav_core").guided(cond, empty, 3.0))
    expected = from_core(pack("tav_core").sample(predict, path.trajectory[-1], core_scheduler(model), STEPS))
    got = sampled(model, sd, latent, STEPS, positive=sd.text(EDIT))
    print(f"{relative(got, expected):.1e} of the mean magnitude")
    assert relative(got, expected) < 1e-3
    assert relative(got, sampled(plain, sd, latent, STEPS, positive=sd.text(EDIT))) > 0.01


@pytest.mark.parametrize("windows_last", [False, True])
@pytest.mark.parametrize(("structure", "layout"), [(0.7, 0.0), (0.0, 0.7)])
def test_what_an_edit_keeps_in_windows_is_tav_cores(sd, tuned, clip, structure, layout, windows_last):
    plain, model, unet = tuned
    path, latent = inverted_by_core(sd, unet, model, clip), inverted(model, sd, clip, STEPS)
    mask = torch.zeros(FRAMES, 64, 64)
    for frame in range(FRAMES):
        mask[frame, 8 : 24 + 4 * frame, 16:52] = 1
    scheduler, tokens = core_scheduler(model), pack("nodes.host.words").tokens_of
    own, edit, empty = (predictor(unet, sd.text(text), scheduler) for text in (CLIP_PROMPT, EDIT, ""))
    aligned = pack("tav_core.layout").align(tokens(sd.clip, CLIP_PROMPT), tokens(sd.clip, EDIT))
    source = pack("tav_core.source")
    with pack("tav_core.lend").lent(unet) as loan:
        lender = source.Lender(loan, own, path, source.Dials(structure, layout))
        predict = windowed(pack("tav_core").guided(lender.borrowing(edit, aligned), lender.borrowing(empty), 3.0))
        where = pack("tav_core.masks").latent_mask(mask, FRAMES, (8, 8))
        noise = path.trajectory[-1]
        sample = pack("tav_core.ddim").sample
        expected = from_core(sample(predict, noise, scheduler, STEPS, source=path, mask=where))
    kept = keeping(sd, plain if windows_last else model, latent, structure, layout, mask)
    kept = divided(kept) if windows_last else kept
    got = sampled(kept, sd, latent, STEPS, positive=sd.text(EDIT))
    assert relative(got, expected) < 1e-3
    unkept = sampled(model, sd, latent, STEPS, positive=sd.text(EDIT))
    assert relative(got, unkept) > 0.02


def under_control(text):
    """CONDITIONING with a pose ControlNet and a depth adapter on an image per frame; and the same for tav_core."""
    images = torch.rand(FRAMES, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    networks = pack("nodes.host.miniature_control")
    for network in (networks.load_pose_controlnet(), networks.load_depth_adapter()):
        text = core("nodes").ControlNetApply().apply_controlnet(text, network, images, 0.8)[0]
    folder = pack("tav_core.demo.miniature").miniature_path()
    opened, hints = pack("tav_core.checkpoints.control_networks"), images.permute(0, 3, 1, 2)
    control = pack("tav_core.control").Control
    pose, depth = opened.open_controlnet(folder / "pose"), opened.open_t2i_adapter(folder / "depth")
    return text, (control(pose, hints, 0.8), control(depth, hints, 0.8))


def test_each_window_sees_its_own_control_images(sd, tuned, clip):
    _, model, unet = tuned
    controlled, controls = under_control(sd.text(EDIT))
    scheduler = core_scheduler(model)
    core_predictor = replace(predictor(unet, sd.text(EDIT), scheduler), controls=controls)
    expected = pack("tav_core").invert(windowed(core_predictor), to_core(clip), scheduler, STEPS)
    with torch.inference_mode():
        latent = pack("nodes.host.ddim").invert_latents(model, controlled, clip, STEPS)
        alone = pack("nodes.host.ddim").invert_latents(model, sd.text(EDIT), clip, STEPS)
    expected = rearrange(expected, "n 1 c f h w -> n f c h w")
    assert relative(latent["tav_trajectory"], expected) < 1e-3
    assert relative(alone["tav_trajectory"], expected) > 0.01


def test_prompts_and_masks_per_frame_reach_their_window(sd, tuned):
    """Each frame has its own prompt and mask; a window in the middle is the clip that is cut out with them."""
    _, model, unet = tuned
    words = [f"a {colour} ball" for colour in ("red", "blue", "green", "pink", "red", "purple", "yellow")]
    texts = torch.cat([sd.text(word)[0][0] for word in words]).clone()
    noise, scheduler = torch.zeros(FRAMES, 4, 8, 8), core_scheduler(model)
    given = core("comfy.sample").prepare_noise(noise, 0)
    got = sampled(model, sd, {"samples": noise}, STEPS, positive=[[texts, {}]], cfg=1.0)
    per_frame = pack("tav_core").NoisePredictor(unet, texts[None], scheduler)
    z = rearrange(given, "f c h w -> 1 c f h w")
    expected = from_core(pack("tav_core").sample(windowed(per_frame), z, scheduler, STEPS))
    assert relative(got, expected) < 1e-3
    masks = torch.linspace(0, 1, FRAMES)[:, None, None].expand(-1, 8, 8)
    masked = [[texts, {"mask": masks, "mask_strength": 1.0}], [texts, {"mask": 1 - masks, "mask_strength": 1.0}]]
    assert relative(sampled(model, sd, {"samples": noise}, STEPS, positive=masked, cfg=1.0), expected) < 1e-3


def test_a_mask_from_words_in_windows_is_tav_cores(sd, tuned, clip):
    _, model, unet = tuned
    latent, (watched_model, seen) = inverted(model, sd, clip, STEPS), watched(model)
    node = pack("nodes.mask_from_words").MaskFromWords
    given = latent, sd.text(CLIP_PROMPT), sd.clip, "ball", 0.4
    (got,) = executed(node, watched_model, *given, unique_id="3", prompt=graph()).args
    assert set(seen) == {LENGTH}
    tokens = pack("nodes.host.words").tokens_of
    places = tokens(sd.clip, CLIP_PROMPT).find(tokens(sd.clip, "ball"))
    own = predictor(unet, sd.text(CLIP_PROMPT), core_scheduler(model))
    path = inverted_by_core(sd, unet, model, clip)
    expected = pack("tav_core.masks").word_mask(own, path, places, 0.4, core_windows())
    assert got.shape == (FRAMES, 64, 64)
    assert (got != expected).float().mean() < 0.02  # a value may lie on the threshold


def test_tuning_sees_the_same_windows_and_control_images_as_in_tav_core(sd, clip, tmp_path):
    inflate = pack("nodes.host.inflate").inflate
    controlled, controls = under_control(sd.text(CLIP_PROMPT))
    tuned, losses, _ = tune(divided(inflate(sd.model)), controlled, tmp_path, clip=clip)
    embeds = sd.text(CLIP_PROMPT)[0][0].clone()
    expected = pack("tav_core.tune").tune(
        diffusers_twin(sd.model),
        to_core(clip),
        embeds,
        DDPMScheduler.from_config(core_scheduler(sd.model).config),
        config(window=LENGTH),
        control=partial(pack("tav_core.control").residuals, controls, prompt_embeds=embeds),
    )
    assert losses == pytest.approx(expected.losses, rel=1e-4)
    assert tuned.facts.config["window"] == LENGTH
    whole = tune(inflate(sd.model), controlled, tmp_path, clip=clip)
    assert whole[2]["how"] == "new"  # another run
    assert whole[1] != pytest.approx(losses, rel=1e-3)


def test_a_video_no_longer_than_the_window_is_bit_equal_to_one_without(sd, tuned, clip):
    plain, _, _ = tuned
    whole, latent = divided(plain, FRAMES), inverted(plain, sd, clip, STEPS)
    assert torch.equal(inverted(whole, sd, clip, STEPS)["tav_trajectory"], latent["tav_trajectory"])
    assert torch.equal(sampled(whole, sd, latent, STEPS), sampled(plain, sd, latent, STEPS))


def test_a_preview_of_tuning_sees_windows_too(sd, clip, tmp_path):
    model, shapes = divided(pack("nodes.host.inflate").inflate(sd.model)), []
    controlled, _ = under_control(sd.text(CLIP_PROMPT))
    tune(model, controlled, tmp_path, clip=clip, on_step=lambda step, loss, estimate: shapes.append(estimate().shape))
    assert set(shapes) == {clip.shape}


def test_a_network_under_a_shared_control_runs_both_prompts_in_one_batch_in_windows_too(sd, tuned):
    model, seen = watched(tuned[1])
    network = pack("nodes.host.miniature_control").load_pose_controlnet()
    images = torch.rand(FRAMES, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    apply = core("nodes").ControlNetApplyAdvanced().apply_controlnet
    positive, negative = apply(sd.text(EDIT), sd.text(""), network, images, 0.8, 0.0, 1.0)
    with torch.inference_mode():
        noise = {"samples": torch.zeros(FRAMES, 4, 8, 8)}
        pack("nodes.host.ddim").sample_latents(model, positive, negative, noise, 2, cfg=3.0, eta=0.0, seed=0)
    assert set(seen) == {2 * LENGTH}


def test_more_prompts_than_frames_are_refused_as_they_are_without_windows(sd, tuned):
    ((text, _),) = sd.text("a red ball")
    noise = {"samples": torch.zeros(FRAMES, 4, 8, 8)}
    with pytest.raises(ValueError, match=f"Got {FRAMES + 1} prompts for {FRAMES} frames"):
        sampled(tuned[1], sd, noise, 2, positive=[[text.repeat(FRAMES + 1, 1, 1), {}]], cfg=1.0)


def test_the_hosts_samplers_see_windows_too(sd, tuned, clip):
    model, seen = watched(tuned[1])
    latent = inverted(model, sd, clip, 10)
    settings = "disable", 0, 10, 3.0, "euler", "ddim_uniform"
    with torch.inference_mode():
        sampler = core("nodes").KSamplerAdvanced()
        ends = sd.text(EDIT), sd.text(""), latent, 0, 10000, "disable"
        stock = sampler.sample(model, *settings, *ends)[0]["samples"]
    assert set(seen) == {LENGTH, 2 * LENGTH}
    ours = sampled(model, sd, latent, 10, positive=sd.text(EDIT))
    assert (stock - ours).abs().mean() < 0.1 * ours.abs().mean()  # KSampler ends at sigma 0


def test_what_cannot_be_divided_is_told(sd, tuned, clip):
    node = pack("nodes.video_windows").VideoWindows
    with pytest.raises(ValueError, match="Video Windows needs a MODEL for videos"):
        executed(node, sd.model, 4, 1)
    assert "overlap must be from 0 to 2" in node.validate_inputs(length=4, overlap=3)
    with pytest.raises(ValueError, match="16 frames, but the clip has only 7"):
        inverted(divided(tuned[0], 16), sd, clip, STEPS)
    settings = "disable", 0, 4, 3.0, "euler_cfg_pp", "ddim_uniform"
    ends = sd.text(EDIT), sd.text(""), inverted(tuned[1], sd, clip, 4), 0, 10000, "disable"
    sampler = core("nodes").KSamplerAdvanced()
    with pytest.raises(ValueError, match="does not work with the sampler euler_cfg_pp"):
        sampler.sample(tuned[1], *settings, *ends)
    context = core("comfy_extras.nodes_context_windows").ContextWindowsManualNode
    both = context.execute(tuned[1], 4, 1, "standard_static", 1, False, "pyramid", 0, False, "", False).args[0]
    with pytest.raises(ValueError, match="does not work with Context Windows"):
        inverted(both, sd, clip, STEPS)
