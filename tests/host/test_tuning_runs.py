"""One-shot tuning inside the host: runs that resume and are kept, what is refused, and memory that comes back."""

import contextlib
import gc
import os
import random as numbers
import tempfile
import time
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from tests.golden import worst
from tests.host.assets import CHECKPOINT
from tests.host.inprocess import checkpoint, core, executed, inputs, miniature, pack, predict
from tests.host.test_parity import random
from tests.host.test_shared_model import with_controlnet

STEPS = 3
METADATA = {"prompt": "a man", "loras": [], "controls": []}
CLIP = random(2, 4, 8, 8, seed=3, scale=5.0)


@pytest.fixture(scope="module")
def sd():
    return miniature()


@pytest.fixture(scope="module")
def inflated(sd):
    return pack("nodes.host.inflate").inflate(sd.model)


@pytest.fixture(scope="module")
def lora():
    return pack("tav_core.demo.miniature").SKS_LORA


class Cancelled(BaseException):
    """As the host's own: not an Exception."""


def config(**changes):
    return pack("tav_core.tune").TuneConfig(
        **{
            "num_steps": STEPS,
            "learning_rate": 1e-3,
            "checkpoint_every": 1,
            "mixed_precision": "no",
            "gradient_checkpointing": False,
        }
        | changes
    )


def tune(model, positive, root, *, clip=CLIP, stop_at=None, on_step=None, snapshots=(), **changes):
    def watch(step, total, *, loss, estimate):
        if on_step:
            on_step(step, loss, estimate)
        if step == stop_at:
            raise Cancelled

    with torch.inference_mode():  # as the host runs nodes
        return pack("nodes.host.tuning").tune_model(
            model,
            clip.clone(),
            positive,
            config(**changes),
            root=root,
            metadata=METADATA,
            on_step=watch,
            snapshots=snapshots,
        )


@pytest.fixture(scope="module")
def uninterrupted(sd, inflated, tmp_path_factory):
    return tune(inflated, sd.text("a man"), tmp_path_factory.mktemp("runs"))


def test_a_cancelled_run_resumes_and_ends_with_the_same_weights(sd, inflated, uninterrupted, tmp_path):
    weights, losses, how = uninterrupted
    assert how["how"] == "new"
    with pytest.raises(Cancelled):
        tune(inflated, sd.text("a man"), tmp_path, stop_at=2)
    again, its_losses, how = tune(inflated, sd.text("a man"), tmp_path)
    assert how["how"] == "resumed at step 2"
    assert its_losses == losses
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in weights.tensors.items())


def test_a_finished_run_is_not_tuned_again(sd, inflated, uninterrupted, tmp_path):
    tune(inflated, sd.text("a man"), tmp_path)
    steps = []
    weights, losses, how = tune(inflated, sd.text("a man"), tmp_path, on_step=lambda *step: steps.append(step))
    assert (how["how"], steps, losses) == ("already tuned", [], uninterrupted[1])
    assert all(torch.equal(weights.tensors[name], tensor) for name, tensor in uninterrupted[0].tensors.items())
    assert files_in(tmp_path) == ["inputs.safetensors", "state.safetensors", "weights-000003.safetensors"]


def files_in(root) -> list[str]:
    (folder,) = root.iterdir()
    return sorted(file.name for file in folder.iterdir())


def same(one, other) -> bool:
    return all(torch.equal(one.tensors[name], tensor) for name, tensor in other.tensors.items())


def test_a_finished_run_goes_on_where_it_ended(sd, inflated, uninterrupted, tmp_path):
    tune(inflated, sd.text("a man"), tmp_path, num_steps=2)
    weights, losses, how = tune(inflated, sd.text("a man"), tmp_path)
    assert how["how"] == "resumed at step 2"
    assert losses == uninterrupted[1]
    assert same(weights, uninterrupted[0])


def test_fewer_steps_than_a_run_has_done_leave_it_as_it_is(sd, inflated, uninterrupted, tmp_path):
    expected = tune(inflated, sd.text("a man"), tmp_path / "alone", num_steps=1)[0]
    tune(inflated, sd.text("a man"), tmp_path / "both")
    weights, losses, how = tune(inflated, sd.text("a man"), tmp_path / "both", num_steps=1)
    assert (how["how"], losses) == ("new", uninterrupted[1][:1])
    assert same(weights, expected)
    kept = ["inputs.safetensors", "state.safetensors", "weights-000001.safetensors", "weights-000003.safetensors"]
    assert files_in(tmp_path / "both") == kept
    assert tune(inflated, sd.text("a man"), tmp_path / "both")[2]["how"] == "already tuned"
    assert tune(inflated, sd.text("a man"), tmp_path / "both", num_steps=4)[2]["how"] == "resumed at step 3"


def test_one_that_was_cancelled_below_a_longer_one_does_not_hinder_a_still_shorter_one(sd, inflated, tmp_path):
    tune(inflated, sd.text("a man"), tmp_path)
    with pytest.raises(Cancelled):
        tune(inflated, sd.text("a man"), tmp_path, num_steps=2, stop_at=2)
    assert tune(inflated, sd.text("a man"), tmp_path, num_steps=1)[2]["how"] == "new"


def test_snapshots_are_the_weights_of_shorter_runs(sd, inflated, uninterrupted, tmp_path):
    expected = {n: tune(inflated, sd.text("a man"), tmp_path / f"{n}", num_steps=n)[0] for n in (1, 2)}
    weights, *_ = tune(inflated, sd.text("a man"), tmp_path / "run", snapshots={1, 2, 9})
    assert same(weights, uninterrupted[0])
    for steps, shorter in expected.items():
        got, losses, how = tune(inflated, sd.text("a man"), tmp_path / "run", num_steps=steps)
        assert (how["how"], losses) == ("already tuned", uninterrupted[1][:steps])
        assert same(got, shorter)
        assert (got.facts.steps, got.facts.final_loss) == (steps, losses[-1])


def test_a_clip_whose_last_digits_differ_is_the_same_run_and_another_clip_is_not(sd, inflated, tmp_path):
    """Encoding on another number of threads changes the last digits."""
    with pytest.raises(Cancelled):
        tune(inflated, sd.text("a man"), tmp_path, stop_at=1)
    _, _, nearly = tune(inflated, sd.text("a man"), tmp_path, clip=CLIP * (1 + 1e-6))
    assert nearly["how"] == "resumed at step 1"
    assert tune(inflated, sd.text("a man"), tmp_path, clip=CLIP + 0.5)[2]["how"] == "new"


def test_whatever_decides_the_result_makes_another_run(sd, inflated, lora, tmp_path, monkeypatch):
    monkeypatch.setattr(pack("nodes.host.tuning"), "free_all", lambda: None)  # it takes longer than all else here
    host, other = pack("nodes.host.inflate"), miniature.__wrapped__().model  # another copy of it
    other.model.diffusion_model.out[2].weight.data *= 1.01
    cases = {
        "checkpoint, outside attention": (host.inflate(other), sd.text("a man"), {}),
        "checkpoint": (inflated, sd.text("a man"), {}),
        "text": (inflated, sd.text("a dog"), {}),
        "seed": (inflated, sd.text("a man"), {"seed": 1}),
        "rate": (inflated, sd.text("a man"), {"learning_rate": 2e-3}),
        "pattern": (host.inflate(sd.model, attention="full"), sd.text("a man"), {}),
        "LoRA": (host.inflate(sd.with_lora(lora)), sd.text("a man"), {}),
        "weaker LoRA": (host.inflate(sd.with_lora(lora, strength=0.5)), sd.text("a man"), {}),
    }
    for model, text, changes in cases.values():
        with pytest.raises(Cancelled):
            tune(model, text, tmp_path / "of-each", stop_at=1, num_steps=2, **changes)
    assert len(list((tmp_path / "of-each").iterdir())) == len(cases)
    again = tune(host.inflate(sd.with_lora(lora, strength=0.5)), sd.text("a man"), tmp_path / "of-each", num_steps=2)
    assert again[2]["how"] == "resumed at step 1"  # the same LoRA, loaded once more


def test_tuned_weights_hold_the_tuning_and_not_the_lora(sd, lora, tmp_path):
    weights, *_ = tune(pack("nodes.host.inflate").inflate(sd.with_lora(lora)), sd.text("a man"), tmp_path, num_steps=2)
    largest = max(
        tensor.abs().max() for name, tensor in weights.tensors.items() if "to_q" in name and "temp" not in name
    )
    assert 0 < largest < 3e-3  # two steps of 1e-3; the LoRA is larger by far
    assert weights.facts.base_fingerprint == pack("nodes.host.weights").base_fingerprint(sd.model)
    facts = weights.facts
    assert (facts.family, facts.frames, facts.size, facts.steps, facts.prompt) == ("sd1", 2, [64, 64], 2, "a man")
    assert facts.loras == [{"file": None, "strength": None}]  # the graph did not name it


def test_tuning_a_tuned_model_starts_from_its_base(sd, inflated, uninterrupted, tmp_path):
    tuned = pack("nodes.host.inflate").with_tuned(sd.model, uninterrupted[0])
    again, losses, _ = tune(tuned, sd.text("a man"), tmp_path)
    assert losses == uninterrupted[1]
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in uninterrupted[0].tensors.items())


def test_the_estimate_for_previews_changes_nothing(sd, inflated, uninterrupted, tmp_path):
    shown = []
    losses = tune(
        inflated, sd.text("a man"), tmp_path, on_step=lambda _step, _loss, estimate: shown.append(estimate().clone())
    )[1]
    assert losses == uninterrupted[1]
    assert [tuple(image.shape) for image in shown] == [(2, 4, 8, 8)] * STEPS
    assert worst(shown[0], shown[-1]) > 1e-4


@pytest.mark.parametrize("by", ["colours", "TAESD", "VAE"])
def test_previews_show_every_frame_and_change_nothing(sd, inflated, uninterrupted, tmp_path, monkeypatch, by):
    host, previews, shown = core("latent_preview"), pack("nodes.host.previews"), []
    with torch.inference_mode():  # as the host makes it
        taesd = host.TAESDPreviewerImpl(core("comfy.taesd.taesd").TAESD(None, None))
    monkeypatch.setattr(host, "get_previewer", lambda *_: taesd if by == "TAESD" else None)
    decoder = previews.Decoder(inflated, sd.vae if by == "VAE" else None)
    on_step = lambda _step, _loss, estimate: shown.append(decoder.images(estimate()))  # noqa: E731
    assert tune(inflated, sd.text("a man"), tmp_path, on_step=on_step)[1] == uninterrupted[1]
    size = (8, 8) if by == "colours" else (64, 64)
    assert [[image.size for image in images] for images in shown] == [[size] * 2] * STEPS


class Full:
    """A VAE for whose work there is no memory once its weights are on the device."""

    latent_channels = 4

    def __init__(self, vae):
        self.patcher = vae.patcher

    def decode(self, _latents):
        core("comfy.model_management").load_models_gpu([self.patcher])
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_a_preview_never_ends_a_run_for_want_of_memory_and_another_models_vae_is_refused(sd, inflated):
    previews, manage, full = pack("nodes.host.previews"), core("comfy.model_management"), Full(sd.vae)
    predict(sd.model, *inputs(sd.model, 2))
    before = [loaded.model for loaded in manage.current_loaded_models]
    assert [image.size for image in previews.Decoder(inflated, full).images(CLIP)] == [(8, 8)] * 2
    assert [loaded.model for loaded in manage.current_loaded_models] == before != []
    full.latent_channels = 16
    with pytest.raises(ValueError, match="of 16 channels, but the MODEL's have 4"):
        previews.Decoder(inflated, full)


def test_a_preview_leaves_loaded_what_was_and_nothing_else(sd, inflated):
    """As a ControlNet, with which the next step is tuned."""
    manage, decoder = core("comfy.model_management"), pack("nodes.host.previews").Decoder(inflated, sd.vae)
    manage.unload_all_models()
    decoder.images(CLIP)
    assert manage.current_loaded_models == []
    predict(sd.model, *inputs(sd.model, 2))
    before = [loaded.model for loaded in manage.current_loaded_models]
    decoder.images(CLIP)
    assert [loaded.model for loaded in manage.current_loaded_models] == before != []


def test_previews_neither_draw_from_pythons_random_numbers_nor_depend_on_them(tmp_path, monkeypatch):
    """Other nodes seed them, and would then make one preview take the place of another."""
    monkeypatch.setattr(core("folder_paths"), "temp_directory", str(tmp_path))
    images = torch.zeros(2, 16, 16, 3)
    for _ in range(2):
        numbers.seed(0)
        pack("nodes.host.previews").as_video(images, 8)
    drawn = numbers.random()
    numbers.seed(0)
    assert drawn == numbers.random()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_large_clip_is_decoded_small(sd, inflated):
    clip = random(2, 4, 48, 64, seed=4)
    assert [image.size for image in pack("nodes.host.previews").Decoder(inflated, sd.vae).images(clip)] == [
        (256, 192)
    ] * 2


@pytest.mark.parametrize("steps", [(2, 1), (1, 2)])
def test_a_list_of_step_counts_of_which_one_has_a_preview_is_tuned(sd, inflated, tmp_path, monkeypatch, steps):
    monkeypatch.setattr(core("folder_paths"), "models_dir", str(tmp_path))
    monkeypatch.setattr(core("folder_paths"), "temp_directory", str(tmp_path))
    node, text = pack("nodes.one_shot_tune").OneShotTune, sd.text("a man")
    given = inflated, {"samples": CLIP.clone()}, text
    each = [executed(node, *given, count, 1e-3, 0, "no", "off", 2) for count in steps]
    (models, *_), ui, _ = core("execution").get_output_from_returns(each, node)
    assert len(models) == len(ui["tune_a_video"]) == 2
    assert len(ui["images"]) == len(ui["animated"]) == 1


def test_a_controlnet_is_honoured_in_tuning_and_makes_another_run(models, tmp_path):
    sd = checkpoint(models / "checkpoints" / CHECKPOINT)
    model = pack("nodes.host.inflate").inflate(sd.model)
    plain, controlled = (
        tune(model, positive, tmp_path, num_steps=1)
        for positive in (sd.text("a man"), with_controlnet(sd, models, "a man", frames=2))
    )
    assert abs(controlled[1][0] - plain[1][0]) > 1e-3
    assert len(list(tmp_path.iterdir())) == 2
    (recorded,) = controlled[0].facts.controls
    assert (recorded["kind"], recorded["strength"], recorded["start"], recorded["end"]) == ("controlnet", 1.0, 0.0, 1.0)
    assert plain[0].facts.controls is None


def test_other_models_leave_the_device_before_tuning(sd, inflated, tmp_path):
    manage = core("comfy.model_management")
    predict(sd.model, *inputs(sd.model, 2))
    assert manage.current_loaded_models
    held = []
    note = lambda *_: held.append(len(manage.current_loaded_models))  # noqa: E731
    tune(inflated, sd.text("a man"), tmp_path, num_steps=1, on_step=note)
    assert held == [0]


@pytest.mark.parametrize("stop_at", [None, 1])
def test_all_memory_comes_back(sd, inflated, tmp_path, stop_at):
    with contextlib.suppress(Cancelled):
        tune(inflated, sd.text("a man"), tmp_path, stop_at=stop_at)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is UNet2DConditionModel]
    assert not core("comfy.model_management").current_loaded_models


def test_the_model_that_came_in_is_left_as_it_is(sd, inflated, tmp_path):
    given = inputs(sd.model, 2)
    before = predict(inflated, *given)
    tune(inflated, sd.text("a man"), tmp_path, num_steps=1)
    assert torch.equal(predict(inflated, *given), before)


def changed(conditioning, **options):
    return [[text, given | options] for text, given in conditioning]


def bypassed(model):
    """A MODEL as Load LoRA (Bypass) leaves it."""
    model = model.clone()
    model.set_injections("bypass_lora", [core("comfy.model_patcher").PatcherInjection(lambda _: None, lambda _: None)])
    return model


def behind(module: str, node: str, *settings):
    """How a node of the host changes a MODEL."""

    def change(model):
        its = getattr(core(module), node)
        return (its.execute if hasattr(its, "execute") else its().patch)(model, *settings)[0]

    return change


def set_by(method: str, *given):
    """How a node changes a MODEL that calls this method of it."""

    def change(model):
        model = model.clone()
        getattr(model, method)(*given)
        return model

    return change


def with_hypernetwork(model):
    """As Load Hypernetwork does, with one that doubles keys and values 64 wide."""
    layer = {"linear.0.weight": torch.eye(64), "linear.0.bias": torch.zeros(64)}
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"activation_func": "linear", "step": 1, 64: [layer, layer]}, Path(folder, "doubling.pt"))
        load = core("comfy_extras.nodes_hypernetwork").load_hypernetwork_patch
        patch = load(str(Path(folder, "doubling.pt")), 1.0)
    return set_by("set_model_attn2_patch", patch)(model)


def test_tuned_modules_may_be_left_out_but_not_be_computed_in_another_way(sd, tmp_path):
    host, inflation = pack("nodes.host.inflate"), pack("tav_core.inflation").Inflation
    model = host.inflate(sd.model, inflation(merge="alpha", known_frames=True))
    tuned = host.with_tuned(sd.model, tune(model, sd.text("a man"), tmp_path, num_steps=1)[0])
    for asked in (inflation(temporal=False), inflation(temporal=False, known_frames=True), inflation(merge="alpha")):
        assert host.inflate(tuned, asked) is not None
    with pytest.raises(ValueError, match="were tuned with merge 'alpha', but Inflate UNet sets it to 'add'"):
        host.inflate(tuned, inflation(known_frames=True))


def test_the_temporal_layers_of_other_networks_are_tuned_kept_and_applied(sd, tmp_path):
    host, given = pack("nodes.host.inflate"), inputs(sd.model)
    inflation = pack("tav_core.inflation").Inflation(
        "frame", "frame", position_bias=True, convolution=True, merge="alpha", queries=False
    )
    model, text = host.inflate(sd.model, inflation), sd.text("a man")
    tuned, *_ = tune(model, text, tmp_path, image_share=0.5)
    assert (tuned.facts.inflation, tuned.facts.config["image_share"]) == (inflation, 0.5)
    assert all("_temp." in name for name in tuned.tensors)
    untuned = predict(model, *given)
    assert worst(predict(host.with_tuned(sd.model, tuned), *given), untuned) > 1e-4
    assert torch.equal(predict(host.with_tuned(sd.model, tuned, 0.0), *given), untuned)
    assert tune(model, text, tmp_path, image_share=0.5)[2]["how"] == "already tuned"
    assert tune(host.inflate(model, merge="add"), text, tmp_path, image_share=0.5)[2]["how"] == "new"


UNSEEN = {
    "attn2_patch": with_hypernetwork,
    "attn1_patch": behind("comfy_extras.nodes_hypertile", "HyperTile", 256, 2, 0, False),
    "attn1_patch,": behind("comfy_extras.nodes_tomesd", "TomePatchModel", 0.3),
    "output_block_patch": behind("comfy_extras.nodes_freelunch", "FreeU_V2", 1.3, 1.4, 0.9, 0.2),
    "input_block_patch_after_skip, output_block_patch": behind(
        "comfy_extras.nodes_model_downscale", "PatchModelAddDownscale", 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic"
    ),
    "attn2 replacement": set_by("set_model_attn2_replace", lambda query, key, value, options: query, "middle", 0, 0),
    "attn1 replacement": set_by("set_model_attn1_replace", lambda query, key, value, options: query, "middle", 0),
    "function wrapper": set_by("set_model_unet_function_wrapper", lambda apply, given: apply(**given)),
    "diffusion_model wrapper other": set_by(
        "add_wrapper_with_key", "diffusion_model", "other", lambda executor, *given, **more: executor(*given, **more)
    ),
    "diffusion_model.out.forward": set_by("add_object_patch", "diffusion_model.out.forward", lambda hidden: hidden),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_tuning_would_not_see_is_refused(sd, inflated, tmp_path, name):
    named = rf"at run time \({name.rstrip(',')}.*put that node behind"
    with pytest.raises(ValueError, match=named):
        tune(UNSEEN[name](inflated), sd.text("a man"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_replacement_that_an_inflation_wraps_is_refused_too(sd, tmp_path):
    inflated = pack("nodes.host.inflate").inflate(UNSEEN["attn1 replacement"](sd.model))
    with pytest.raises(ValueError, match=r"at run time \(attn1 replacement"):
        tune(inflated, sd.text("a man"), tmp_path)


def test_guidance_and_what_only_sampling_has_may_pass(sd, inflated, uninterrupted, tmp_path):
    guided = set_by("set_model_sampler_post_cfg_function", lambda given: given["denoised"])(inflated)
    guided = behind("comfy_extras.nodes_pag", "PerturbedAttentionGuidance", 2.0)(guided)
    guided = behind("comfy_extras.nodes_easycache", "EasyCacheNode", 0.2, 0.15, 0.95, False)(guided)
    core("comfy_api.torch_helpers").set_torch_compile_wrapper(model=guided, backend="eager", options=None)
    assert tune(guided, sd.text("a man"), tmp_path)[1] == uninterrupted[1]


def test_what_cannot_be_tuned_on_is_refused(sd, inflated, tmp_path):
    text, other = sd.text("a man"), sd.text("a dog")
    several = [[text[0][0].repeat(3, 1, 1), text[0][1]]]
    windows = pack("nodes.host.windows").with_windows(inflated, pack("tav_core.windows").Windows(2))
    for model, positive, message in (
        (sd.model, text, "insert Inflate UNet"),
        (inflated, several, "3 prompts for 2 frames"),
        (windows, several, "3 prompts for 2 frames"),
        (inflated, text + other, "combines 2"),
        (inflated, changed(text, area=(4, 4, 0, 0)), "an area"),
        (inflated, changed(text, mask=torch.ones(1, 8, 8)), "a mask"),
        (inflated, changed(text, start_percent=0.2, end_percent=1.0), "a range"),
        (inflated, changed(text, clip_start_percent=0.0), "a schedule"),
        (inflated, changed(text, hooks=object()), "hooks"),
        (inflated, changed(text, gligen=("position", None, [])), "GLIGEN"),
        (inflated, changed(text, default=True), "a default"),
        (bypassed(inflated), text, "load the LoRA with Load LoRA"),
    ):
        with pytest.raises(ValueError, match=message):
            tune(model, positive, tmp_path)
    assert not list(tmp_path.iterdir())
    latents = pack("nodes.host.latents")
    for latent, check, message in (
        ({"samples": torch.zeros(1, 4, 8, 8)}, lambda x: latents.frames_of(x, least=2), "at least 2"),
        ({"samples": torch.zeros(2, 16, 8, 8)}, latents.frames_of, r"\(2, 16, 8, 8\)"),
        ({"samples": torch.zeros(1, 4, 2, 8, 8)}, latents.frames_of, r"\(1, 4, 2, 8, 8\)"),
        ({"samples": CLIP}, lambda x: latents.check_samplable(x, sd.model), "neither empty nor from DDIM Invert"),
        ({"samples": 14 * CLIP, "tav_timestep": 981}, lambda x: latents.check_clean(x, sd.model), "already noise"),
        (
            {"samples": torch.ones(2, 4, 8, 8), "noise_mask": torch.ones(1)},
            lambda x: latents.frames_of(x, masked=False),
            "mask",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            check(latent)


def test_running_out_of_memory_says_what_to_lower(sd, inflated, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(pack("nodes.host.tuning"), "tune", full)
    with pytest.raises(ValueError, match="fewer frames or a smaller size"), pack("nodes.host.memory").readable_errors():
        tune(inflated, sd.text("a man"), tmp_path)


def test_a_damaged_result_is_tuned_anew(sd, inflated, uninterrupted, tmp_path):
    tune(inflated, sd.text("a man"), tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "weights-000003.safetensors").write_bytes(b"half a fi")
    weights, losses, how = tune(inflated, sd.text("a man"), tmp_path)
    assert (how["how"], losses) == ("resumed at step 3", uninterrupted[1])
    assert same(weights, uninterrupted[0])


def test_a_damaged_state_starts_again_and_is_logged(sd, inflated, uninterrupted, tmp_path, caplog):
    with pytest.raises(Cancelled):
        tune(inflated, sd.text("a man"), tmp_path, stop_at=2)
    (folder,) = tmp_path.iterdir()
    (folder / "state.safetensors").write_bytes(b"half a fi")
    _, losses, how = tune(inflated, sd.text("a man"), tmp_path)
    assert (how["how"], losses) == ("new", uninterrupted[1])
    assert "starts over" in caplog.text


def test_the_log_says_what_happened_and_a_finished_run_unloads_nothing(sd, inflated, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    tune(inflated, sd.text("a man"), tmp_path, num_steps=1)
    assert ", new, 1 steps" in caplog.text
    monkeypatch.setattr(pack("nodes.host.tuning"), "free_all", lambda: pytest.fail("A model was unloaded."))
    tune(inflated, sd.text("a man"), tmp_path, num_steps=1)
    assert "already tuned, 1 steps" in caplog.text


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", ["no", "bf16", "auto"])
def test_a_model_that_computes_in_half_precision_is_tuned_in_any(sd, tmp_path, stored, precision):
    """As ComfyUI loads checkpoints on a GPU; what is trained is whole in each, so that small steps are not lost."""
    if stored is torch.float16 and precision == "auto":
        pytest.skip("fp16 by itself is for GPUs")
    with torch.inference_mode():
        half = pack("nodes.host.miniature").load_miniature(personalised=False)[0]
        half.model.to(stored)
    half.model.diffusion_model.dtype, half.model.manual_cast_dtype = stored, None  # on the CPU the host takes float32
    assert pack("nodes.host.sd_model").compute_dtype(half) is stored
    inflated, shown = pack("nodes.host.inflate").inflate(half), []
    weights, losses, _ = tune(
        inflated,
        sd.text("a man"),
        tmp_path,
        mixed_precision=precision,
        learning_rate=1e-6,
        num_steps=2,
        on_step=lambda _step, _loss, estimate: shown.append(estimate().isfinite().all()),
    )
    assert (len(losses), shown) == (2, [True, True])
    name = next(name for name in weights.tensors if "attn1.to_q" in name)
    moved = weights.tensors[name].abs()
    assert 0 < moved.max() < 3e-6  # 2 steps of 1e-6, which half precision would round away or up


def made(root, name: str, *, steps: int, clip: int = 1, days: float = 0.1, megabytes: float = 1.0):
    """A folder as a run leaves it: so many steps, on a clip of that size, used that long ago."""
    folder = root / name
    folder.mkdir(parents=True)
    write = pack("tav_core.files").write_tensors
    write(folder / "inputs.safetensors", {"latents": torch.zeros(clip, 1000)}, pack("nodes.host.runs").FORMAT, {})
    if steps:
        rest = torch.zeros(int(megabytes * 1e6) // 4)
        facts = {"step": steps, "losses": [0.1] * steps, "grad_norms": [1.0] * steps, "scaler": {}, "run": name}
        write(folder / "state.safetensors", {"rest": rest}, pack("tav_core.resume").FORMAT, facts)
    then = time.time() - days * 24 * 60 * 60
    os.utime(folder, (then, then))
    return folder


def left(root, current: str = "current") -> set[str]:
    pack("nodes.host.runs").make_room(root, root / current)
    return {folder.name for folder in root.iterdir()}


def test_runs_are_kept_by_size_and_worth(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_A_VIDEO_RUNS_GB", "0.0035")  # three of them
    made(tmp_path, "current", steps=1)
    made(tmp_path, "long", steps=500, days=5)
    for number in range(5):
        made(tmp_path, f"toy-{number}", steps=4)
    assert {"long", "current"} < left(tmp_path)
    assert len(left(tmp_path)) == 3
    made(tmp_path, "larger-clip", steps=4, clip=50)
    assert left(tmp_path) == {"long", "current", "larger-clip"}
    made(tmp_path, "unused-for-long", steps=600, days=200)
    assert left(tmp_path) == {"long", "current", "larger-clip"}


def test_without_need_only_runs_without_a_step_are_deleted_and_never_those_just_used(tmp_path, monkeypatch):
    made(tmp_path, "current", steps=0)
    made(tmp_path, "failed-at-once", steps=0)
    made(tmp_path, "of-another-server", steps=0, days=0)
    made(tmp_path, "toy", steps=1)
    assert left(tmp_path) == {"current", "of-another-server", "toy"}
    monkeypatch.setenv("TUNE_A_VIDEO_RUNS_GB", "0")
    assert left(tmp_path) == {"current", "of-another-server"}
    monkeypatch.setenv("TUNE_A_VIDEO_RUNS_GB", "much")
    made(tmp_path, "toy", steps=1)
    with pytest.raises(ValueError, match="set it to a number of gigabytes"):
        left(tmp_path)


def test_a_wrong_limit_is_refused_before_a_run_begins(sd, inflated, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_A_VIDEO_RUNS_GB", "much")
    with pytest.raises(ValueError, match="set it to a number of gigabytes"):
        tune(inflated, sd.text("a man"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_another_server_deletes_meanwhile_is_no_error(tmp_path):
    """A link to nothing is what a file is that was there a moment ago."""
    made(tmp_path, "current", steps=1)
    other = made(tmp_path, "of-another-server", steps=1)
    (other / ".state.1234abcd.safetensors").symlink_to("gone")
    assert left(tmp_path) == {"current", "of-another-server"}
    (other / "inputs.safetensors").unlink()
    (other / "inputs.safetensors").symlink_to("gone")
    runs = pack("nodes.host.runs")
    assert runs.open_run(tmp_path, {"other": "settings"}, {"latents": CLIP}).steps == 0
    assert runs._unused(tmp_path / "gone") == runs._size(tmp_path / "gone") == runs._worth(tmp_path / "gone") == 0


def test_a_finished_run_keeps_no_half_of_a_state_that_was_killed_while_it_was_written(sd, inflated, tmp_path):
    with pytest.raises(Cancelled):
        tune(inflated, sd.text("a man"), tmp_path, stop_at=1)
    (folder,) = tmp_path.iterdir()
    (folder / ".state.1234abcd.safetensors").write_bytes(b"half a fi")
    assert tune(inflated, sd.text("a man"), tmp_path)[2]["how"] == "resumed at step 1"
    assert files_in(tmp_path) == ["inputs.safetensors", "state.safetensors", "weights-000003.safetensors"]


def test_a_text_that_differs_a_little_in_all_its_values_is_another():
    """CLIP's embeddings have a few values of about 30, the others are about 1."""
    text = random(1, 77, 768)
    text[..., 133] = 30.0
    alike = pack("nodes.host.runs")._alike
    assert alike({"text": text}, {"text": text * (1 + 1e-6)})
    assert not alike({"text": text}, {"text": text + random(1, 77, 768, seed=1, scale=0.005)})  # at most 0.025


def test_a_clip_that_differs_in_one_place_is_another():
    clip = random(24, 4, 64, 64)
    one_value = torch.zeros_like(clip)
    one_value[3, 0, 9, 9] = 0.5
    assert not pack("nodes.host.runs")._alike({"latents": clip}, {"latents": clip + one_value})


def test_a_clip_that_a_vae_rounds_to_bf16_otherwise_is_the_same():
    clip = random(24, 4, 64, 64)
    rounded = clip.bfloat16().float()
    next_to_it = torch.where(random(24, 4, 64, 64, seed=1) > 0, rounded, rounded * (1 + 2**-8)).bfloat16()
    assert pack("nodes.host.runs")._alike({"latents": rounded}, {"latents": next_to_it})


def test_a_control_without_a_network_of_its_own_is_refused_before_work_starts(sd, inflated, tmp_path):
    control = core("comfy.controlnet")
    kind = control.ControlLora({}).set_cond_hint(torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match="ControlLora cannot be used"):
        tune(inflated, changed(sd.text("a man"), control=kind), tmp_path)
    assert not list(tmp_path.iterdir())


def test_latents_of_a_vae_that_overflowed_are_refused():
    with pytest.raises(ValueError, match="--fp32-vae"):
        pack("nodes.host.latents").frames_of({"samples": torch.full((2, 4, 8, 8), torch.nan)})
