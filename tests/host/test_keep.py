"""What edits keep from their clip, on ComfyUI's samplers, against tav_core's."""

import tempfile
from pathlib import Path

import pytest
import torch
from einops import rearrange

from tests.host.inprocess import core, executed, miniature, pack
from tests.host.test_parity import random
from tests.host.test_sampling import (
    SCALE,
    core_scheduler,
    from_core,
    inverted,
    predictor,
    relative,
    sampled,
    to_core,
    with_random_weights,
)

CLIP_PROMPT, EDIT = "a red ball is moving on the grass", "a blue star is moving on the grass"
STEPS = 6


@pytest.fixture(scope="module")
def sd():
    return miniature()


@pytest.fixture(scope="module")
def tuned(sd):
    return with_random_weights(sd)


@pytest.fixture(scope="module")
def clip():
    return random(3, 4, 8, 8, seed=3, scale=5.0)


@pytest.fixture(scope="module")
def latent(sd, tuned, clip):
    return inverted(tuned[0], sd, clip, STEPS)


@pytest.fixture
def mask():
    """Of each frame another part, in pixels."""
    mask = torch.zeros(3, 64, 64)
    for frame in range(3):
        mask[frame, 8 : 40 + 8 * frame, 16:52] = 1
    return mask


def graph(source: str = CLIP_PROMPT, edit: str = EDIT) -> dict:
    return {
        "1": {"class_type": "CLIPTextEncode", "inputs": {"text": source, "clip": ["9", 1]}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": edit, "clip": ["9", 1]}},
        "3": {"class_type": "KeepFromSource", "inputs": {"source": ["1", 0], "edit": ["2", 0]}},
    }


def keeping(sd, model, latent, structure=0.0, layout=0.0, mask=None, grow=0, reweight="", prompt=None):
    node = pack("nodes.keep_from_source").KeepFromSource
    given = model, latent, sd.text(CLIP_PROMPT), structure, layout, grow, mask, sd.text(EDIT), sd.clip, reweight
    return executed(node, *given, unique_id="3", prompt=prompt or graph()).args[0]


def stock(sd, model, latent, sampler="euler", steps=STEPS):
    with torch.inference_mode():
        return core("nodes").KSamplerAdvanced().sample(
            model, "disable", 0, steps, 3.0, sampler, "ddim_uniform", sd.text(EDIT), sd.text(""),
            latent, 0, 10000, "disable",
        )[0]["samples"]  # fmt: skip


def core_edit(sd, unet, model, clip, structure, layout, mask, weights=None, inversion_steps=STEPS, steps=STEPS):
    """The same by tav_core, on the network with the same weights."""
    ddim, source, masks = pack("tav_core.ddim"), pack("tav_core.source"), pack("tav_core.masks")
    align, tokens = pack("tav_core.layout").align, pack("nodes.host.words").tokens_of
    scheduler = core_scheduler(model)
    own, edit, empty = (predictor(unet, sd.text(text), scheduler) for text in (CLIP_PROMPT, EDIT, ""))
    path = ddim.source_path(ddim.invert(empty, to_core(clip), scheduler, inversion_steps), scheduler, inversion_steps)
    weights = {tokens(sd.clip, words): weight for words, weight in (weights or {}).items()}
    layout_of = align(tokens(sd.clip, CLIP_PROMPT), tokens(sd.clip, EDIT), weights)
    with pack("tav_core.lend").lent(unet) as loan:
        lender = source.Lender(loan, own, path, source.Dials(structure, layout))
        predict = pack("tav_core").guided(lender.borrowing(edit, layout_of), lender.borrowing(empty), 3.0)
        where = None if mask is None else masks.latent_mask(mask, 3, (8, 8))
        noise = path.trajectory[-1]
        return from_core(ddim.sample(predict, noise, scheduler, steps, source=path, mask=where))


@pytest.mark.parametrize(("structure", "layout"), [(0.5, 0.0), (0.0, 0.5), (0.7, 0.4), (0.0, 0.0)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("steps", [STEPS, 4])
def test_what_an_edit_keeps_is_tav_cores(sd, tuned, clip, latent, mask, structure, layout, masked, steps):
    """Also where sampling visits other noise levels than the inversion did."""
    model, unet = tuned
    mask = mask if masked else None
    expected = core_edit(sd, unet, model, clip, structure, layout, mask, steps=steps)
    kept = keeping(sd, model, latent, structure, layout, mask)
    got = sampled(kept, sd, latent, steps, positive=sd.text(EDIT))
    print(f"{relative(got, expected):.1e} of the mean magnitude")
    assert relative(got, expected) < 1e-3
    plain = sampled(model, sd, latent, steps, positive=sd.text(EDIT))
    if structure or layout or masked:
        assert relative(got, plain) > 0.02
    else:
        assert torch.equal(got, plain)


def test_a_word_that_counts_for_more_is_tav_cores(sd, tuned, clip, latent):
    model, unet = tuned
    kept = keeping(sd, model, latent, 0.4, 0.7, reweight="blue star: 4, moving:0.5")
    got = sampled(kept, sd, latent, STEPS, positive=sd.text(EDIT))
    weights = {"blue star": 4.0, "moving": 0.5}
    assert relative(got, core_edit(sd, unet, model, clip, 0.4, 0.7, None, weights)) < 1e-3
    same = sampled(keeping(sd, model, latent, 0.4, 0.7), sd, latent, STEPS, positive=sd.text(EDIT))
    assert relative(got, same) > 0.02


def test_the_hosts_sampler_keeps_the_same(sd, tuned, clip):
    """KSampler ends at sigma 0 and TAV Sample at the schedule's first level, so only the last step differs."""
    latent = inverted(tuned[0], sd, clip, 10)
    kept = keeping(sd, tuned[0], latent, 0.7, 0.4)
    ours, theirs = sampled(kept, sd, latent, 10, positive=sd.text(EDIT)), stock(sd, kept, latent, steps=10)
    plain = stock(sd, tuned[0], latent, steps=10)
    assert relative(theirs, ours) < 0.3
    assert (theirs - ours).abs().mean() < 0.3 * (plain - ours).abs().mean()


def test_outside_of_the_mask_every_sampler_gives_the_clip(sd, tuned, clip, latent, mask):
    kept = keeping(sd, tuned[0], latent, mask=mask)
    outside = (torch.nn.functional.max_pool2d(mask[:, None], 8) == 0).expand_as(clip)
    videos = [sampled(kept, sd, latent, 5)]
    videos += [stock(sd, kept, latent, name, 5) for name in ("euler", "euler_ancestral", "dpmpp_2m", "uni_pc")]
    for video in videos:
        torch.testing.assert_close(video[outside], clip[outside], atol=1e-4, rtol=0)
        assert relative(video[~outside], clip[~outside]) > 0.1


def test_a_mask_on_the_latents_is_honoured(sd, tuned, clip, latent, mask):
    masked = core("nodes").SetLatentNoiseMask().set_mask(latent, mask)[0]
    got = sampled(tuned[0], sd, masked, 5)
    torch.testing.assert_close(got, sampled(keeping(sd, tuned[0], latent, mask=mask), sd, latent, 5))
    kept = keeping(sd, tuned[0], masked)
    torch.testing.assert_close(
        stock(sd, kept, masked, steps=5), stock(sd, keeping(sd, tuned[0], latent, mask=mask), latent, steps=5)
    )
    with pytest.raises(ValueError, match="cannot mask a clip's inverted noise"):
        stock(sd, tuned[0], masked, steps=5)


def test_a_mask_on_latents_that_lost_the_clip_is_refused(sd, tuned, latent, mask):
    lost = {name: value for name, value in latent.items() if "trajectory" not in name} | {"noise_mask": mask}
    with pytest.raises(ValueError, match="A mask on the latents needs the latent from DDIM Invert"):
        sampled(tuned[0], sd, lost, 5)


def test_both_conditions_in_one_call_or_two_give_the_same(sd, tuned, latent, mask, monkeypatch):
    kept = keeping(sd, tuned[0], latent, 0.7, 0.7, mask)
    together = sampled(kept, sd, latent, 4, positive=sd.text(EDIT))
    monkeypatch.setattr(type(kept.model), "memory_required", lambda *args, **kwargs: 1e18)
    monkeypatch.setattr(core("comfy.model_management"), "load_models_gpu", lambda *args, **kwargs: None)
    apart = sampled(kept, sd, latent, 4, positive=sd.text(EDIT))
    assert relative(apart, together) < 1e-4


def test_a_second_run_and_one_after_an_interruption_are_bit_equal(sd, tuned, latent, mask):
    kept = keeping(sd, tuned[0], latent, 0.7, 0.4, mask)
    first = sampled(kept, sd, latent, 4, positive=sd.text(EDIT))
    assert torch.equal(sampled(kept, sd, latent, 4, positive=sd.text(EDIT)), first)
    stopped, calls = kept.clone(), []

    def interrupting(given):
        calls.append(1)
        if len(calls) == 2:
            raise core("comfy.model_management").InterruptProcessingException
        return given["denoised"]

    stopped.set_model_sampler_post_cfg_function(interrupting)
    with pytest.raises(core("comfy.model_management").InterruptProcessingException):
        sampled(stopped, sd, latent, 4, positive=sd.text(EDIT))
    assert torch.equal(sampled(kept, sd, latent, 4, positive=sd.text(EDIT)), first)
    plain = pack("nodes.host.inflate").inflate(sd.model)
    before = sampled(plain, sd, latent, 2)
    assert torch.equal(sampled(plain, sd, latent, 2), before)


def test_perturbed_attention_guidance_works_with_it(sd, tuned, latent):
    guided = core("comfy_extras.nodes_pag").PerturbedAttentionGuidance
    patched = getattr(guided, "execute", None)
    kept = keeping(sd, tuned[0], latent, 0.7, 0.4)
    model = patched(kept, 3.0)[0] if patched else guided().patch(kept, 3.0)[0]
    video = sampled(model, sd, latent, 4, positive=sd.text(EDIT))
    assert video.isfinite().all()
    assert relative(video, sampled(kept, sd, latent, 4, positive=sd.text(EDIT))) > 0.01


def test_inverting_and_zero_dials_ignore_what_is_kept(sd, tuned, clip, latent):
    kept = keeping(sd, tuned[0], latent, 1.0, 1.0)
    assert torch.equal(inverted(kept, sd, clip, STEPS)["samples"], latent["samples"])


@pytest.mark.parametrize("words", ["ball", "red ball", "grass"])
def test_a_mask_from_words_is_tav_cores(sd, tuned, clip, latent, words):
    model, unet = tuned
    node = pack("nodes.mask_from_words").MaskFromWords
    (got,) = executed(
        node, model, latent, sd.text(CLIP_PROMPT), sd.clip, words, 0.4, unique_id="3", prompt=graph()
    ).args
    scheduler, ddim = core_scheduler(model), pack("tav_core.ddim")
    own, empty = (predictor(unet, sd.text(text), scheduler) for text in (CLIP_PROMPT, ""))
    path = ddim.source_path(ddim.invert(empty, to_core(clip), scheduler, STEPS), scheduler, STEPS)
    tokens = pack("nodes.host.words").tokens_of
    places = tokens(sd.clip, CLIP_PROMPT).find(tokens(sd.clip, words))
    expected = pack("tav_core.masks").word_mask(own, path, places, 0.4)
    assert 0 < expected.mean() < 1
    assert got.shape == (3, 64, 64)
    assert (got != expected).float().mean() < 0.02  # a value may lie on the threshold


def test_the_words_are_read_from_the_graph_and_checked(sd, tuned, latent):
    with pytest.raises(ValueError, match="words behind 'edit' cannot be read"):
        keeping(sd, tuned[0], latent, layout=0.5, prompt=graph(edit="another prompt"))
    node = pack("nodes.mask_from_words").MaskFromWords
    with pytest.raises(ValueError, match="does not have 'cat'"):
        executed(node, tuned[0], latent, sd.text(CLIP_PROMPT), sd.clip, "cat", 0.3, unique_id="3", prompt=graph())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "plain"}, "needs a MODEL for videos"),
        ({"latent": "lost"}, "Keep From Source needs the latent from DDIM Invert"),
        ({"latent": "scaled"}, "a node in between made it"),
        ({"source": "two"}, "Keep From Source needs one prompt, but the conditioning combines 2;"),
        ({"edit": None}, "connect the edited prompt to edit"),
        ({"reweight": "yellow:2"}, "'yellow' is to be re-weighted, but is not in the edited prompt"),
        ({"reweight": "a:b"}, "re-weighted as WORD:FACTOR"),
        ({"mask": torch.zeros(2, 64, 64)}, "The mask is"),
    ],
)
def test_what_cannot_be_kept_is_told_before_anything_runs(sd, tuned, latent, change, message):
    given = {
        "model": tuned[0],
        "latent": latent,
        "source": sd.text(CLIP_PROMPT),
        "edit": sd.text(EDIT),
        "mask": None,
        "reweight": "",
    }
    given |= {
        "plain": {"model": sd.model},
        "lost": {"latent": {"samples": latent["samples"]}},
        "scaled": {"latent": latent | {"samples": latent["samples"].repeat(1, 1, 2, 2)}},
        "two": {"source": [*sd.text(CLIP_PROMPT), *sd.text(EDIT)]},
    }.get(next(iter(change.values())) if isinstance(next(iter(change.values())), str) else "", change)
    node = pack("nodes.keep_from_source").KeepFromSource
    with pytest.raises(ValueError, match=message):
        executed(
            node, given["model"], given["latent"], given["source"], 0.5, 0.5, 0, given["mask"], given["edit"], sd.clip,
            given["reweight"], unique_id="3", prompt=graph(),
        )  # fmt: skip


def hypertiled(model):
    node = core("comfy_extras.nodes_hypertile").HyperTile
    settings = (256, 2, 0, False)
    return (node.execute(model, *settings) if hasattr(node, "execute") else node().patch(model, *settings))[0]


def windowed(model):
    windows = core("comfy.context_windows")
    model = model.clone()
    model.model_options["context_handler"] = windows.IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule(windows.ContextSchedules.STATIC_STANDARD),
        fuse_method=windows.get_matching_fuse_method(windows.ContextFuseMethods.PYRAMID),
        context_length=2,
        context_overlap=1,
    )
    return model


@pytest.mark.parametrize(("change", "name"), [(hypertiled, "HyperTile"), (windowed, "Context Windows")])
def test_nodes_that_cannot_be_combined_are_named(sd, tuned, latent, change, name):
    model = change(tuned[0])
    with pytest.raises(ValueError, match=f"does not work with {name}"):
        sampled(keeping(sd, model, latent, 0.5), sd, latent, 2)
    mask = pack("nodes.mask_from_words").MaskFromWords
    with pytest.raises(ValueError, match=f"Mask From Words does not work with {name}"):
        executed(mask, model, latent, sd.text(CLIP_PROMPT), sd.clip, "ball", 0.3, unique_id="3", prompt=graph())


def test_a_run_on_other_latents_is_refused(sd, tuned, latent):
    kept = keeping(sd, tuned[0], latent, 0.5)
    with pytest.raises(ValueError, match="same frames and size"):
        sampled(kept, sd, {"samples": torch.zeros(2, 4, 8, 8)}, 2)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a red ball is moving on the grass", "1 2 3 4 5 6 7 8"),
        ("a red ball, moving on the (beach:1.2)", "1 2 3 3 4 5 6 7"),
        ("a (red ball:1.3) is moving", "1 2 3 4 5"),
    ],
)
def test_words_are_those_between_spaces_whatever_their_weights(sd, prompt, words):
    tokens = pack("nodes.host.words").tokens_of(sd.clip, prompt)
    numbers = [word for word in tokens.words if word]
    assert numbers == list(map(int, words.split()))


def test_prompts_of_one_structure_exchange_all_words_as_in_the_shell(sd):
    host, shell = pack("nodes.host.words").tokens_of, pack("tav_core.checkpoints.tokenizer").tokens_of
    align = pack("tav_core.layout").align
    tokenizer = pack("tav_core.world.vocabulary").write_tokenizer
    with tempfile.TemporaryDirectory() as folder:
        own = tokenizer(Path(folder))
        theirs = align(shell(own, CLIP_PROMPT), shell(own, EDIT))
    ours = align(host(sd.clip, CLIP_PROMPT), host(sd.clip, EDIT))
    assert ours.replaces
    assert theirs.replaces
    assert torch.equal(ours.mapper, theirs.mapper)


def test_a_run_in_two_parts_is_one_run(sd, tuned, clip, mask):
    """The dials are shares of all steps, and what the first part hands on is still as noisy as it says."""
    latent = inverted(tuned[0], sd, clip, 10)
    whole = torch.nn.functional.max_pool2d(mask[:, None], 8).repeat_interleave(8, 2).repeat_interleave(8, 3)[:, 0]
    kept = keeping(sd, tuned[0], latent, 0.5, 0.3, whole)
    sampling = (kept, "disable", 0, 10, 3.0, "euler", "ddim_uniform", sd.text(EDIT), sd.text(""))
    with torch.inference_mode():
        sampler = core("nodes").KSamplerAdvanced()
        (half,) = sampler.sample(*sampling, latent, 0, 4, "enable")
        (video,) = sampler.sample(*sampling, half, 4, 10000, "disable")
    assert relative(video["samples"], stock(sd, kept, latent, steps=10)) < 1e-4


def test_what_another_clip_or_a_finished_video_cannot_lend_is_refused(sd, tuned, clip, latent, mask):
    other = inverted(tuned[0], sd, random(3, 4, 8, 8, seed=4, scale=5.0), STEPS)
    kept = keeping(sd, tuned[0], latent, 0.5, mask=mask)
    with pytest.raises(ValueError, match="not the ones that Keep From Source got"):
        sampled(kept, sd, other, STEPS)
    flipped = latent | {"samples": latent["samples"].flip(-1)}
    finished = latent | {"samples": stock(sd, tuned[0], latent, steps=10)}
    for changed in (flipped, finished):
        with pytest.raises(ValueError, match="has changed it, or sampled a video from it"):
            keeping(sd, tuned[0], changed, 0.5)


def test_the_layout_is_only_for_the_prompt_it_was_made_for(sd, tuned, latent):
    kept = keeping(sd, tuned[0], latent, layout=0.5)
    with pytest.raises(ValueError, match="another prompt than the sampler's"):
        sampled(kept, sd, latent, 2, positive=sd.text("a green box is moving on the sea"))
    area = [[text, options | {"area": (4, 4, 0, 0), "strength": 1.0}] for text, options in sd.text(EDIT)]
    with pytest.raises(ValueError, match="is for an area"):
        sampled(kept, sd, latent, 2, positive=area)


def test_checking_an_inversion_ignores_what_is_kept(sd, tuned, clip, latent, mask):
    node = pack("nodes.ddim_invert").DDIMInvert
    kept = keeping(sd, tuned[0], latent, 1.0, mask=torch.zeros_like(mask))
    found = [
        executed(node, model, sd.text(""), {"samples": clip}, STEPS, True).ui["tune_a_video"][0]["psnr"]
        for model in (tuned[0], kept)
    ]
    assert found[0] == found[1]


def cached(model):
    node = core("comfy_extras.nodes_easycache").EasyCacheNode
    return node.execute(model, 0.2, 0.15, 0.95, False)[0]


def merged(model):
    node = core("comfy_extras.nodes_tomesd").TomePatchModel
    return (node.execute if hasattr(node, "execute") else node().patch)(model, 0.3)[0]


@pytest.mark.parametrize(("change", "name"), [(cached, "EasyCache"), (merged, "Token Merging")])
def test_nodes_that_skip_or_merge_are_named(sd, tuned, latent, change, name):
    with pytest.raises(ValueError, match=f"does not work with {name}"):
        sampled(keeping(sd, change(tuned[0]), latent, 0.5), sd, latent, 2)


def test_caches_leave_a_mask_from_words_as_it_is(sd, tuned, latent):
    def mask_from(model):
        node = pack("nodes.mask_from_words").MaskFromWords
        given = model, latent, sd.text(CLIP_PROMPT), sd.clip, "ball", 0.3
        return executed(node, *given, unique_id="3", prompt=graph()).args[0]

    assert torch.equal(mask_from(cached(tuned[0])), mask_from(tuned[0]))


@pytest.mark.parametrize("first", [True, False])
def test_another_replacement_of_cross_attention_is_refused_with_a_layout(sd, tuned, latent, first):
    def replaced(model):
        model = model.clone()
        model.set_model_attn2_replace(lambda query, key, value, options: query, "middle", 0)
        return model

    def run():
        if first:
            return keeping(sd, replaced(tuned[0]), latent, layout=0.5)
        kept = keeping(sd, tuned[0], latent, layout=0.5)
        return sampled(replaced(kept), sd, latent, 2, positive=sd.text(EDIT))

    with pytest.raises(ValueError, match="set keep_layout to 0"):
        run()


def test_a_source_prompt_for_some_steps_is_refused(sd, tuned, latent):
    partial = [[text, options | {"start_percent": 0.3, "end_percent": 1.0}] for text, options in sd.text(CLIP_PROMPT)]
    node = pack("nodes.keep_from_source").KeepFromSource
    with pytest.raises(ValueError, match="needs a prompt for the whole video at all steps, but it has a range"):
        executed(node, tuned[0], latent, partial, 0.5, 0.0, 0, unique_id="3", prompt=graph())


@pytest.mark.parametrize(
    "change",
    [
        {"tav_timesteps": None},
        {"tav_timesteps": [5000] * STEPS},
        {"tav_timesteps": [1]},
        {"tav_trajectory": torch.zeros(STEPS + 1, 3, 4, 8, 8, dtype=torch.int8)},
        {"tav_trajectory": torch.zeros(0)},
    ],
    ids=str,
)
def test_a_path_that_another_node_has_changed_is_refused(tuned, latent, change):
    with pytest.raises(ValueError, match="a node in between has lost it"):
        pack("nodes.host.latents").path_of(latent | change, tuned[0], "This")


def test_a_timestep_or_level_that_another_node_has_changed_is_ignored_and_8_bits_are_read(tuned, latent):
    latents = pack("nodes.host.latents")
    for timestep in (None, -1, 5000, "981", [981]):
        assert latents.timestep_of(latent | {"tav_timestep": timestep}, tuned[0]) is None
    assert latents.timestep_of(latent | {"tav_noise_level": []}, tuned[0]) == latent["tav_timestep"]
    assert latents.frames_of({"samples": latent["samples"].to(torch.float8_e4m3fn)}).dtype == torch.float32


def test_the_trajectory_is_the_clip_at_each_level(sd, tuned, clip, latent):
    assert latent["tav_trajectory"].shape == (STEPS + 1, *clip.shape)
    assert latent["tav_trajectory"].dtype == torch.float32
    torch.testing.assert_close(latent["tav_trajectory"][0] / SCALE, clip)
    assert latent["tav_timesteps"][-1] == latent["tav_timestep"]
    level = (core_scheduler(tuned[0]).alphas_cumprod[latent["tav_timestep"]] ** -0.5).item()
    torch.testing.assert_close(
        rearrange(latent["tav_trajectory"][-1], "f c h w -> f c h w") * level / SCALE, latent["samples"]
    )


def test_prompts_neither_one_nor_one_per_frame_are_refused(sd, tuned, clip, latent):
    """The host would repeat them, and give a frame another's prompt."""
    ((text, options),) = sd.text(CLIP_PROMPT)
    two, three = ([[text.repeat(count, 1, 1), options]] for count in (2, 3))
    assert len(sampled(tuned[0], sd, latent, 2, positive=three)) == 3
    message = "Got 2 prompts for 3 frames; give one per frame, or one for all"
    with pytest.raises(ValueError, match=message):
        sampled(tuned[0], sd, latent, 2, positive=two)
    with torch.inference_mode(), pytest.raises(ValueError, match=message):
        pack("nodes.host.ddim").invert_latents(tuned[0], two, clip, 2)
    with pytest.raises(ValueError, match=message):
        executed(
            pack("nodes.keep_from_source").KeepFromSource, tuned[0], latent, two, 0.5, 0.0, 0, unique_id="3", prompt={}
        )
    path = pack("nodes.host.latents").path_of(latent, tuned[0], "This test")
    with torch.inference_mode(), pytest.raises(ValueError, match=message):
        pack("nodes.host.word_mask").mask_of_words(tuned[0], two, path, [2], 0.3)
