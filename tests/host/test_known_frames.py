"""Known frames on a MODEL: what its network sees of them, and the frames around them, against tav_core's."""

from dataclasses import replace
from functools import partial
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load

from tests import clips
from tests.golden import worst
from tests.host.inprocess import core, executed, inputs, miniature, pack, predict
from tests.host.test_parity import CPU, core_prediction, random
from tests.host.test_sampling import core_scheduler, from_core, inverted, predictor, relative, to_core
from tests.host.test_tuning_runs import tune
from tests.host.test_windows import divided
from tests.host.workflows import ending_in, new, small

PROMPT, STEPS = "a red ball is moving on the grass", 4
FRAMES = 3
LEFT = torch.zeros(1, 64, 64)
LEFT[..., :32] = 1


@pytest.fixture(scope="module")
def sd():
    return miniature()


def random_weights(sd, **fields):
    """tav_core's network with random tuned weights, without them applied, and the weights."""
    unet = pack("tav_core.inflate").inflate(pack("nodes.host.weights").diffusers_unet(sd.model, CPU), **fields)
    tensors = {
        name: random(*p.shape, seed=5 + i, scale=0.05 if ".known." in name else 0.02)
        for i, (name, p) in enumerate(unet.trainable_parameters().items())
    }
    facts = pack("tav_core.tuned_facts").TunedFacts(inflation=unet.inflation)
    return unet, pack("tav_core").TunedWeights(tensors, facts)


@pytest.fixture(scope="module")
def tuned(sd):
    """A MODEL with weights that see known frames, and tav_core's network with the same."""
    unet, weights = random_weights(sd, known_frames=True)
    weights.apply(unet)
    return pack("nodes.host.inflate").with_tuned(sd.model, weights), unet


@pytest.fixture(scope="module")
def unknowing(sd):
    """A MODEL with weights that never saw known frames, and tav_core's network with the same."""
    unet, weights = random_weights(sd)
    weights.apply(unet)
    return pack("nodes.host.inflate").with_tuned(sd.model, weights), unet


@pytest.fixture(params=["knowing", "unknowing"])
def either(request, tuned, unknowing):
    """A MODEL whose weights see known frames, or never saw them, and tav_core's network with the same."""
    return tuned if request.param == "knowing" else unknowing


@pytest.fixture(scope="module")
def clip():
    return random(FRAMES, 4, 8, 8, seed=3, scale=5.0)


@pytest.fixture(scope="module")
def moving(sd):
    """A clip of a texture that passes by."""
    frames = torch.from_numpy(np.stack(clips.moving(FRAMES))[:, :64, :64]).float() / 255
    with torch.inference_mode():
        samples = sd.vae.encode(frames)
    return samples.clone()


@pytest.fixture(scope="module")
def plain(sd, tuned, clip):
    """What Interpolate Video makes of the clip with the settings of `interpolated`."""
    return interpolated(sd, tuned[0], clip)


def between_frames(latents, *places):
    mask = torch.zeros(latents.shape[2], dtype=torch.bool)
    mask[list(places)] = True
    return pack("tav_core.known_frames").Known(latents, mask)


def showing(model, known):
    """A clone of the MODEL to which these known frames are shown in every call."""
    model = model.clone()
    model.model_options["transformer_options"][pack("nodes.host.known_frames").KNOWN] = known
    return model


def watched(model):
    """A clone of the MODEL, and what its convolution over known frames sees in each call."""
    model, seen = model.clone(), []

    def watch(executor, *args, **kwargs):
        seen.append(convolution_of(model).given)
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(core("comfy.patcher_extension").WrappersMP.DIFFUSION_MODEL, "watch", watch)
    return model, seen


def convolution_of(model):
    (added,) = model.get_additional_models_with_key(pack("nodes.host.inflate").KEY)
    (convolution,) = (block.known for block in added.model.blocks if hasattr(block, "known"))
    return convolution


def interpolated(
    sd, model, clip, factor=2, *, cfg=3.0, guess=None, trust=0.5, vae=None, steps=STEPS, positive=None, seed=7
):
    node = pack("nodes.interpolate_video").InterpolateVideo
    given = model, positive or sd.text(PROMPT), sd.text(""), latent_of(clip), factor, seed, steps, cfg
    return executed(node, *given, latent_of(guess), trust, vae).args[0]["samples"]


def extended(
    sd,
    model,
    clip,
    frames=4,
    direction="onwards",
    *,
    correction=0.0,
    cfg=3.0,
    guess=None,
    trust=0.5,
    vae=None,
    steps=STEPS,
    positive=None,
    seed=7,
):
    node, positive = pack("nodes.extend_video").ExtendVideo, positive or sd.text(PROMPT)
    given = model, positive, sd.text(""), latent_of(clip), frames, direction, seed, steps, cfg, correction
    return executed(node, *given, vae, latent_of(guess), trust).args[0]["samples"]


def latent_of(samples):
    """A LATENT of samples; what is one already, or None, as it is."""
    return {"samples": samples} if torch.is_tensor(samples) else samples


def through_pixels(sd, samples, change):
    """Samples decoded, changed as images (to frames, one by one), and encoded again."""
    with torch.inference_mode():
        changed = sd.vae.encode(torch.stack(list(change(sd.vae.decode(samples)))))
    return changed.clone()


def core_predictor(sd, tuned, cfg=3.0):
    model, unet = tuned
    cond, empty = (predictor(unet, sd.text(text), core_scheduler(model)) for text in (PROMPT, ""))

    def predictor_of(known):
        known = known if unet.inflation.known_frames else None
        return pack("tav_core").guided(replace(cond, known=known), replace(empty, known=known), cfg)

    return predictor_of


def filling(**options):
    return pack("tav_core.fill").Filling(STEPS, 7, **options)


# The network


@pytest.mark.parametrize("fields", [{}, {"convolution": True, "merge": "alpha"}], ids=["alone", "with layers"])
def test_a_network_shown_known_frames_is_tav_cores(sd, fields):
    host, given = pack("nodes.host.inflate"), inputs(sd.model)
    unet, weights = random_weights(sd, known_frames=True, **fields)
    known = between_frames(random(1, 4, 3, 8, 8, seed=4), 0, 2)
    untuned = core_prediction(unet, *given)
    for strength in (1.0, 0.5, 0.0):
        weights.apply(unet, strength)
        with torch.no_grad():
            expected = unet(*given, known=known)
        model = host.with_tuned(sd.model, weights, strength)
        assert worst(predict(showing(model, known), *given), expected) < 1e-4
        unseen = predict(model, *given)
        assert worst(unseen, core_prediction(unet, *given)) < 1e-4
        assert (worst(unseen, expected) > 0.01) == (strength > 0)
    assert worst(expected, untuned) < 1e-6


def test_a_freshly_inflated_network_starts_as_the_one_it_was(sd):
    host, given = pack("nodes.host.inflate"), inputs(sd.model)
    known = between_frames(random(1, 4, 3, 8, 8, seed=4), 0, 2)
    fresh = showing(host.inflate(sd.model, known_frames=True), known)
    assert torch.equal(predict(fresh, *given), predict(host.inflate(sd.model), *given))


def test_two_samples_in_one_call_see_the_same_known_frames(sd, tuned):
    latents, timestep, text = inputs(sd.model, batch=2)
    known = between_frames(random(1, 4, 3, 8, 8, seed=4), 0, 2)
    model = showing(tuned[0], known)
    together = predict(model, latents, timestep, text)
    apart = [predict(model, latents[i : i + 1], timestep, text[i : i + 1]) for i in range(2)]
    assert worst(together, torch.cat(apart)) < 1e-4


def test_known_frames_can_be_left_out_of_tuned_weights(sd, tuned):
    host, given = pack("nodes.host.inflate"), inputs(sd.model)
    known = between_frames(random(1, 4, 3, 8, 8, seed=4), 0, 2)
    without = host.inflate(tuned[0], known_frames=False)
    assert worst(predict(showing(without, known), *given), predict(tuned[0], *given)) < 1e-6


# In between


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_an_interpolation_is_tav_cores(sd, tuned, clip, cfg):
    expected = pack("tav_core.fill").interpolate(
        core_predictor(sd, tuned, cfg), to_core(clip), 2, core_scheduler(tuned[0]), filling()
    )
    got = interpolated(sd, tuned[0], clip, cfg=cfg)
    print(f"{relative(got, from_core(expected)):.1e} of the mean magnitude")
    assert relative(got, from_core(expected)) < 1e-4
    assert torch.equal(got[::2], clip)


def test_an_interpolation_with_a_guess_is_tav_cores(sd, either, clip):
    fill, guess = pack("tav_core.fill"), random(5, 4, 8, 8, seed=8, scale=5.0)
    known = fill.between(to_core(clip), 2)
    expected = fill.fill(
        core_predictor(sd, either), known, core_scheduler(either[0]), filling(), guess=to_core(guess), trust=0.5
    )
    got = interpolated(sd, either[0], clip, guess=guess)
    assert relative(got, from_core(expected)) < 1e-4
    assert torch.equal(got[::2], clip)


@pytest.mark.parametrize("factor", [2, 3])
def test_an_interpolation_by_optical_flow_is_tav_cores(sd, either, moving, factor):
    fill = pack("tav_core.fill")
    by_flow = partial(pack("tav_core.video.flow").interpolated_by_flow, factor=factor)
    guess, known = through_pixels(sd, moving, by_flow), fill.between(to_core(moving), factor)
    expected = fill.fill(
        core_predictor(sd, either), known, core_scheduler(either[0]), filling(), guess=to_core(guess), trust=0.5
    )
    got = interpolated(sd, either[0], moving, factor, vae=sd.vae)
    print(f"{relative(got, from_core(expected)):.1e} of the mean magnitude")
    assert relative(got, from_core(expected)) < 1e-4
    assert torch.equal(got[::factor], moving)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_known_frames_of_an_interpolation_are_those_given(sd, tuned, clip, factor, dtype):
    got = interpolated(sd, tuned[0], clip.to(dtype), factor, steps=2)
    assert len(got) == (FRAMES - 1) * factor + 1
    assert torch.equal(got[::factor], clip.to(dtype).float())
    assert got.isfinite().all()


def test_another_seed_and_another_prompt_make_other_frames(sd, tuned, clip, plain):
    assert torch.equal(interpolated(sd, tuned[0], clip), plain)
    assert relative(interpolated(sd, tuned[0], clip, seed=2**64 - 1)[1], plain[1]) > 0.01
    assert relative(interpolated(sd, tuned[0], clip, positive=sd.text("a blue star"))[1], plain[1]) > 0.01


def test_both_prompts_in_one_call_or_two_give_the_same(sd, tuned, clip, plain, monkeypatch):
    together = plain, extended(sd, tuned[0], clip, 2)
    monkeypatch.setattr(type(tuned[0].model), "memory_required", lambda *args, **kwargs: 1e18)
    monkeypatch.setattr(core("comfy.model_management"), "load_models_gpu", lambda *args, **kwargs: None)
    model, seen = watched(tuned[0])
    apart = interpolated(sd, model, clip), extended(sd, model, clip, 2)
    assert len(seen) == 2 * (STEPS + STEPS)
    for one, other in zip(apart, together, strict=True):
        assert relative(one, other) < 1e-4


def test_an_interpolation_in_windows_is_tav_cores(sd, tuned, clip, plain):
    windows = pack("tav_core.windows").Windows(3, 1)
    expected = pack("tav_core.fill").interpolate(
        core_predictor(sd, tuned), to_core(clip), 2, core_scheduler(tuned[0]), filling(windows=windows)
    )
    model, seen = watched(divided(tuned[0], 3, 1))
    got = interpolated(sd, model, clip)
    assert relative(got, from_core(expected)) < 1e-4
    assert torch.equal(got[::2], clip)
    assert relative(got, plain) > 0.01
    whole = pack("tav_core.fill").between(to_core(clip), 2).as_input()
    expected = [whole[:, :, frames] for frames in windows.over(5)] * STEPS
    for given, own in zip(seen, expected, strict=True):
        assert worst(given, own) < 1e-6


def test_the_hosts_own_windows_see_their_known_frames(sd, tuned, clip):
    host = core("comfy.context_windows")
    model, seen = watched(tuned[0])
    model.model_options["context_handler"] = host.IndexListContextHandler(
        context_schedule=host.get_matching_context_schedule(host.ContextSchedules.STATIC_STANDARD),
        fuse_method=host.get_matching_fuse_method(host.ContextFuseMethods.PYRAMID),
        context_length=3,
        context_overlap=1,
    )
    got = interpolated(sd, model, clip, steps=1)
    assert torch.equal(got[::2], clip)
    masks = {tuple(given[0, -1, :, 0, 0].tolist()) for given in seen}
    assert masks in ({(1, 0, 1)}, {(1, 0, 1), (0, 1, 0, 1)})  # where the host adds a frame before its second window


# Onwards, backwards, loops


@pytest.mark.parametrize(("direction", "correction"), [("onwards", 0.0), ("backwards", 0.0), ("onwards", 0.5)])
def test_a_continuation_is_tav_cores(sd, tuned, clip, direction, correction):
    given = to_core(clip), 4, core_scheduler(tuned[0]), filling()
    backwards = direction == "backwards"
    expected = pack("tav_core.fill").extend(
        core_predictor(sd, tuned), *given, backwards=backwards, correction=correction
    )
    got = extended(sd, tuned[0], clip, 4, direction, correction=correction)
    print(f"{relative(got, from_core(expected)):.1e} of the mean magnitude")
    assert relative(got, from_core(expected)) < 1e-4
    assert torch.equal(got[4:] if backwards else got[:FRAMES], clip)


def test_a_loop_is_tav_cores(sd, tuned, clip):
    expected = pack("tav_core.fill").close_loop(
        core_predictor(sd, tuned), to_core(clip), 1, core_scheduler(tuned[0]), filling()
    )
    got = extended(sd, tuned[0], clip, 1, "loop")
    assert relative(got, from_core(expected)) < 1e-4
    assert torch.equal(got[:FRAMES], clip)


@pytest.mark.parametrize(("direction", "count"), [("onwards", 3), ("backwards", 3), ("loop", 1)])
def test_a_continuation_by_optical_flow_is_tav_cores(sd, either, moving, direction, count):
    fill, backwards = pack("tav_core.fill"), direction == "backwards"
    by_flow = partial(pack("tav_core.video.continuation").continued_by_flow, count=count, direction=direction)
    guess = through_pixels(sd, moving, by_flow)
    continued = fill.close_loop if direction == "loop" else partial(fill.extend, backwards=backwards)
    given = to_core(moving), count, core_scheduler(either[0]), filling()
    expected = continued(core_predictor(sd, either), *given, guess=to_core(guess), trust=0.5)
    got = extended(sd, either[0], moving, count, direction, vae=sd.vae)
    print(f"{relative(got, from_core(expected)):.1e} of the mean magnitude")
    assert relative(got, from_core(expected)) < 1e-4
    assert torch.equal(got[count:] if backwards else got[:FRAMES], moving)


def test_windows_only_say_how_many_frames_a_continuation_sees(sd, tuned):
    clip, windows = random(5, 4, 8, 8, seed=3, scale=5.0), pack("tav_core.windows").Windows(4, 1)
    given = to_core(clip), 3, core_scheduler(tuned[0]), filling(windows=windows)
    expected = pack("tav_core.fill").extend(core_predictor(sd, tuned), *given)
    model, seen = watched(divided(tuned[0], 4, 1))
    assert relative(extended(sd, model, clip, 3), from_core(expected)) < 1e-4
    assert {one.shape[2] for one in seen} == {4}
    longer = divided(tuned[0], 16, 1)
    one, other = (extended(sd, model, clip, 2, steps=2) for model in (longer, tuned[0]))
    assert torch.equal(one, other)


@pytest.mark.parametrize("made", [interpolated, extended], ids=["interpolate", "extend"])
def test_a_guess_goes_before_the_vae_and_no_trust_ignores_both(sd, tuned, moving, made):
    make = partial(made, sd, tuned[0], moving, 2, steps=2)
    by_noise, guess = make(), random(5 if made is interpolated else 2, 4, 8, 8, seed=8)
    by_guess, by_flow = make(guess=guess), make(vae=sd.vae)
    for one, other in combinations((by_noise, by_guess, by_flow), 2):
        assert relative(one, other) > 0.02
    assert torch.equal(make(guess=guess, vae=sd.vae), by_guess)
    for ignored in ({"guess": guess}, {"vae": sd.vae}):
        assert torch.equal(make(trust=0.0, **ignored), by_noise)


@pytest.mark.parametrize(
    ("made", "places"), [(interpolated, [0, 1, 1, 2, 2]), (extended, [2, 1])], ids=["interpolate", "extend"]
)
def test_known_frames_that_no_tuning_has_seen_change_nothing(sd, unknowing, clip, made, places):
    again, given = pack("nodes.host.inflate").inflate(unknowing[0], known_frames=True), (clip, 2)
    one, other = (made(sd, model, *given, guess=clip[places], steps=2) for model in (again, unknowing[0]))
    assert relative(one, other) < 1e-6
    assert torch.equal(one[::2] if made is interpolated else one[:FRAMES], clip)


@pytest.mark.parametrize("made", [interpolated, extended], ids=["interpolate", "extend"])
def test_a_guess_is_made_of_images_that_the_host_keeps_in_half_precision(sd, tuned, moving, made, monkeypatch):
    make = partial(made, sd, tuned[0], moving, 2, steps=2, vae=sd.vae)
    expected = make()
    monkeypatch.setattr(core("comfy.cli_args").args, "fp16_intermediates", True)
    with torch.inference_mode():
        assert sd.vae.decode(moving).dtype == torch.float16
    difference = (make() - expected).abs().mean() / expected.abs().mean()  # what is a thing, is a matter of thresholds
    print(f"{difference:.1e} of the mean magnitude")
    assert difference < 0.05


def test_progress_counts_the_steps_of_all_parts_but_those_that_a_guess_replaces(sd, tuned, clip, monkeypatch):
    shown = []
    preview = lambda step, clean, noisy, total: shown.append((step, total))  # noqa: E731
    monkeypatch.setattr(core("latent_preview"), "prepare_callback", lambda *_: preview)
    extended(sd, tuned[0], clip, 4)
    assert shown == [(step, 2 * STEPS) for step in range(2 * STEPS)]
    shown.clear()
    extended(sd, tuned[0], clip, 4, guess=clip[[0, 1, 2, 1]])  # half of the steps
    assert shown == [(step, STEPS) for step in range(STEPS)]
    for made, given in (
        (extended, {"frames": 1, "direction": "loop", "guess": clip[[0]]}),
        (interpolated, {"guess": clip[[0, 0, 1, 1, 2]]}),
    ):
        shown.clear()
        made(sd, tuned[0], clip, **given)
        assert shown == [(step, STEPS // 2) for step in range(STEPS // 2)]


@pytest.mark.parametrize(
    ("made", "asked", "frames", "steps"), [(interpolated, 2, 5, 2), (extended, 3, 3, 4)], ids=["interpolate", "extend"]
)
def test_progress_counts_a_guess_s_frames_and_then_steps(sd, tuned, moving, made, asked, frames, steps, monkeypatch):
    shown = []
    hook = lambda step, total, *_, **__: shown.append((step, total))  # noqa: E731
    monkeypatch.setattr(core("comfy.utils"), "PROGRESS_BAR_HOOK", hook)
    made(sd, tuned[0], moving, asked, vae=sd.vae)
    assert list(dict.fromkeys(total for _, total in shown)) == [frames, steps]
    assert {(1, frames), (frames, frames), (1, steps), (steps, steps)} <= set(shown)


# What stays behind


def test_nothing_of_the_known_frames_stays_after_an_interruption(sd, tuned, clip, plain):
    stopped = tuned[0].clone()
    interrupted = core("comfy.model_management").InterruptProcessingException

    def interrupting(executor, *args, **kwargs):
        assert convolution_of(stopped).given is not None
        raise interrupted

    stopped.add_wrapper_with_key(core("comfy.patcher_extension").WrappersMP.DIFFUSION_MODEL, "stop", interrupting)
    given = inputs(sd.model)
    before = predict(tuned[0], *given)
    for made in (interpolated, extended):
        with pytest.raises(interrupted):
            made(sd, stopped, clip)
        assert convolution_of(tuned[0]).given is None
        assert torch.equal(predict(tuned[0], *given), before)
    assert torch.equal(interpolated(sd, tuned[0], clip), plain)


def test_what_edits_keep_and_caches_are_ignored(sd, tuned, clip, plain):
    latent = inverted(tuned[0], sd, clip, 2)
    keep = pack("nodes.host.keep")
    kept = keep.with_kept(
        tuned[0], keep.Keep(pack("nodes.host.latents").path_of(latent, tuned[0], ""), sd.text(PROMPT))
    )
    assert torch.equal(interpolated(sd, kept, clip), plain)


# Tuning


def test_tuning_learns_known_frames_and_its_files_say_so(sd, tmp_path):
    node = pack("nodes.inflate_unet").InflateUNet
    plain, knowing = (
        executed(node, sd.model, "sparse-causal", "video", True, False, False, "add", True, known).args[0]
        for known in (False, True)
    )
    clip = random(FRAMES, 4, 8, 8, seed=3, scale=5.0)
    settings = {"clip": clip, "num_steps": 6, "learning_rate": 1e-2}
    tuned, _, report = tune(knowing, sd.text(PROMPT), tmp_path, **settings)
    other = tune(plain, sd.text(PROMPT), tmp_path, **settings)[2]
    assert report["run"] != other["run"]
    assert tune(knowing, sd.text(PROMPT), tmp_path, **settings)[2]["how"] == "already tuned"
    assert tuned.tensors["conv_in.known.conv.weight"].count_nonzero()
    tuned.save(tmp_path / "tuned.safetensors")
    loaded = pack("tav_core").TunedWeights.load(tmp_path / "tuned.safetensors")
    assert loaded.facts.inflation.decisive()["known_frames"] is True
    model = pack("nodes.host.inflate").with_tuned(sd.model, loaded)
    got = interpolated(sd, model, clip)
    assert torch.equal(got[::2], clip)
    assert relative(got, interpolated(sd, model, clip, seed=8)) > 0.01


def test_saved_weights_are_loaded_with_known_frames(client):
    ends = {
        "kept": new("SaveTunedWeights", tuned_weights=["tune", 1], filename_prefix="known"),
        "latents_file": new("SaveLatent", samples=["sample", 0], filename_prefix="known"),
    }
    prompt = small("interpolate-and-extend") | ends
    run = client.run(ending_in(prompt, "kept", "latents_file"))
    assert run.status == "success", run.message
    name = run.outputs["kept"]["tune_a_video"][0]["name"]
    loaded = {"tune": new("LoadTunedWeights", model=["checkpoint", 0], tuned_weights_name=name, strength=1.0)}
    again = client.run(ending_in(prompt | loaded, "latents_file"))
    assert again.status == "success", again.message
    assert again.outputs["tune"]["tune_a_video"][0]["known_frames"] is True
    assert {"extend", "sample"} <= again.executed
    one, other = (saved_latents(client, each) for each in (run, again))
    assert relative(other, one) < 1e-3


def saved_latents(client, run):
    (file,) = run.outputs["latents_file"]["latents"]
    return load(client.view(file))["latent_tensor"]


# What is refused


def in_one_sentence(error):
    text = str(error.value)
    assert text.count(". ") == 0, text
    assert text.endswith(".")


@pytest.mark.parametrize("made", [interpolated, extended], ids=["interpolate", "extend"])
@pytest.mark.parametrize("inflated", [False, True], ids=["base", "inflated"])
def test_a_model_without_tuned_weights_is_refused(sd, clip, made, inflated):
    model = pack("nodes.host.inflate").inflate(sd.model, known_frames=True) if inflated else sd.model
    for given in {}, {"vae": sd.vae}:
        with pytest.raises(ValueError, match="needs tuned weights, but this MODEL has none; connect") as error:
            made(sd, model, clip, **given)
        in_one_sentence(error)


@pytest.mark.parametrize("made", [interpolated, extended], ids=["interpolate", "extend"])
@pytest.mark.parametrize("which", ["tuned without", "inflated again", "left out"])
def test_weights_that_see_no_known_frames_are_refused_where_frames_start_from_noise(
    sd, tuned, unknowing, clip, made, which
):
    inflate = pack("nodes.host.inflate").inflate
    model = {
        "tuned without": unknowing[0],
        "inflated again": inflate(unknowing[0], known_frames=True),
        "left out": inflate(tuned[0], known_frames=False),
    }[which]
    for given in {}, {"vae": sd.vae, "trust": 0.0}, {"guess": clip, "trust": 0.01, "steps": 20}:
        with pytest.raises(
            ValueError, match="connect a VAE, raise trust, or set known_frames in Inflate UNet"
        ) as error:
            made(sd, model, clip, **given)
        in_one_sentence(error)


@pytest.mark.parametrize(
    ("made", "given", "message"),
    [
        (interpolated, {"factor": 1}, "factor must be from 2 to 8; got 1"),
        (interpolated, {"factor": 9}, "factor must be from 2 to 8; got 9"),
        (interpolated, {"trust": 1.0}, "trust must be from 0 to below 1; got 1.0"),
        (interpolated, {"trust": -0.1}, "trust must be from 0 to below 1"),
        (interpolated, {"steps": 0}, "steps must be from 1 to 999; got 0"),
        (
            interpolated,
            {"guess": torch.ones(4, 4, 8, 8)},
            r"guess is \(4, 4, 8, 8\), but 3 frames with factor 2 become",
        ),
        (interpolated, {"guess": torch.ones(5, 4, 8, 4)}, r"become \(5, 4, 8, 8\); give as many"),
        (interpolated, {"clip": torch.ones(1, 4, 8, 8)}, "nothing between the frames of a video of one frame"),
        (interpolated, {"clip": torch.ones(3, 16, 8, 8)}, r"Stable Diffusion needs \(frames, 4"),
        (extended, {"frames": 0}, "frames must be from 1 to 4096; got 0"),
        (extended, {"frames": 10**9}, "frames must be from 1 to 4096"),
        (extended, {"direction": "sideways"}, "direction must be one of onwards, backwards, loop; got 'sideways'"),
        (extended, {"correction": 1.0}, "correction must be from 0 to below 1; got 1.0"),
        (extended, {"steps": 1000}, "steps must be from 1 to 999; got 1000"),
        (extended, {"clip": torch.ones(1, 4, 8, 8)}, "needs at least 2 frames to go on from, got 1"),
        (
            extended,
            {"direction": "loop", "frames": 2},
            "frames must be from 1 to 1, to close a loop in a window of 3 frames; got 2",
        ),
        (extended, {"trust": 1.0}, "trust must be from 0 to below 1; got 1.0"),
        (extended, {"trust": -0.1}, "trust must be from 0 to below 1"),
        (
            extended,
            {"guess": torch.ones(7, 4, 8, 8)},
            r"guess is \(7, 4, 8, 8\), but the new frames are \(4, 4, 8, 8\); give one of the new frames alone",
        ),
        (extended, {"guess": torch.ones(4, 4, 8, 4)}, r"the new frames are \(4, 4, 8, 8\)"),
        (extended, {"guess": torch.ones(4, 16, 8, 8)}, r"Stable Diffusion needs \(frames, 4"),
    ],
)
def test_what_cannot_be_made_is_told_before_anything_runs(sd, tuned, clip, made, given, message, monkeypatch):
    for kind, name in ((core("comfy.samplers").CFGGuider, "sample"), (core("comfy.sd").VAE, "decode")):
        monkeypatch.setattr(kind, name, lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=message) as error:
        made(sd, tuned[0], **({"clip": clip, "vae": sd.vae} | given))
    in_one_sentence(error)


@pytest.mark.parametrize("made", [interpolated, extended], ids=["interpolate", "extend"])
@pytest.mark.parametrize(
    ("channels", "message"), [(16, "of 16 channels, but the MODEL's have 4"), (4, "NaN or infinite pixels.*--fp32-vae")]
)
def test_a_vae_that_cannot_show_the_clip_is_refused(sd, tuned, clip, made, channels, message):
    vae = SimpleNamespace(latent_channels=channels, decode=lambda samples: torch.full((1, 64, 64, 3), torch.nan))
    with pytest.raises(ValueError, match=message) as error:
        made(sd, tuned[0], clip, vae=vae)
    in_one_sentence(error)


@pytest.mark.parametrize("made", [interpolated, extended], ids=["interpolate", "extend"])
def test_inverted_and_masked_latents_are_refused(sd, tuned, clip, made):
    latent = inverted(tuned[0], sd, clip, 2)
    with pytest.raises(ValueError, match="already noise from DDIM Invert") as error:
        made(sd, tuned[0], latent)
    in_one_sentence(error)
    made(sd, tuned[0], latent | {"samples": clip}, steps=1)  # a clean video to which the host's samplers copied it
    with pytest.raises(ValueError, match="makes whole frames, but the latents have a mask") as error:
        made(sd, tuned[0], {"samples": clip, "noise_mask": torch.ones(1, 64, 64)})
    in_one_sentence(error)


def test_a_guess_that_is_noise_is_refused(sd, tuned, clip):
    noise = inverted(tuned[0], sd, clip, 2)
    for made in (interpolated, extended):
        with pytest.raises(ValueError, match="already noise from DDIM Invert"):
            made(sd, tuned[0], clip, guess=noise)


@pytest.mark.parametrize("made", [interpolated, extended], ids=["interpolate", "extend"])
def test_a_prompt_for_an_area_is_refused_where_known_frames_are_shown(sd, tuned, clip, made, monkeypatch):
    (area,) = core("nodes").ConditioningSetArea().append(sd.text(PROMPT), 32, 32, 0, 0, 1.0)
    (bounds,) = core("nodes").ConditioningSetMask().append(sd.text(PROMPT), LEFT, "mask bounds", 1.0)
    monkeypatch.setattr(core("comfy.sd").VAE, "decode", lambda *_: pytest.fail("it made a guess"))
    for positive in (area, bounds):
        with pytest.raises(ValueError, match="remove areas from the prompts") as error:
            made(sd, tuned[0], clip, 2, positive=positive, vae=sd.vae)
        in_one_sentence(error)


@pytest.mark.parametrize("kind", ["area", "mask"])
@pytest.mark.parametrize(("made", "places"), [(interpolated, [0, 1, 1, 2, 2]), (extended, [2, 1])])
def test_a_prompt_for_a_part_of_the_frames_changes_that_part(sd, tuned, unknowing, clip, made, places, kind):
    """The left half: most there, and less where the network carries it to."""
    other, nodes = sd.text("a blue square is moving on the sea"), core("nodes")
    (area,) = nodes.ConditioningSetArea().append(other, 32, 64, 0, 0, 1.0)
    (mask,) = nodes.ConditioningSetMask().append(other, LEFT, "default", 1.0)
    for model in (unknowing[0], *([tuned[0]] if kind == "mask" else [])):
        make = partial(made, sd, model, clip, 2, guess=clip[places])
        changed = (make(positive=sd.text(PROMPT) + (area if kind == "area" else mask)) - make()).abs()
        assert changed[..., :4].mean() > 3 * changed[..., 4:].mean() > 0


def test_control_images_of_each_frame_are_refused_where_frames_are_added(sd, tuned, clip):
    network, images = pack("nodes.host.miniature_control").load_pose_controlnet(), torch.rand(FRAMES, 64, 64, 3)
    positive = core("nodes").ControlNetApply().apply_controlnet(sd.text(PROMPT), network, images, 0.8)[0]
    with pytest.raises(ValueError, match="Extend Video takes one ControlNet image for all frames, but got 3") as error:
        extended(sd, tuned[0], clip, positive=positive)
    in_one_sentence(error)

    positive = core("nodes").ControlNetApply().apply_controlnet(sd.text(PROMPT), network, images[:1], 0.8)[0]
    got, without = (extended(sd, tuned[0], clip, 2, steps=2, positive=each) for each in (positive, None))
    assert relative(got, without) > 1e-3


def test_prompts_and_masks_of_each_frame_are_refused_where_frames_are_added(sd, tuned, clip):
    masked = core("node_helpers").conditioning_set_values(sd.text(PROMPT), {"mask": torch.ones(FRAMES, 8, 8)})
    each = [[sd.text(PROMPT)[0][0].repeat(FRAMES, 1, 1), {}]]
    for positive in (masked, each):
        with pytest.raises(ValueError, match="one prompt for all frames, but got prompts or masks for 3") as error:
            extended(sd, tuned[0], clip, positive=positive)
        in_one_sentence(error)
