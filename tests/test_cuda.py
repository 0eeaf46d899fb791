"""The engine on a GPU, against the same seeds on the CPU.

TAV_TEST_DEVICE names another device: with "cpu", the tests run without a GPU, and then check little but themselves.
"""

import math
import os
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import ControlNetModel, DDPMScheduler, T2IAdapter

from tav_core import NoisePredictor, TuneConfig, TunedWeights, guided, inflate, invert, load_checkpoint, sample, tune
from tav_core.attention import PATTERNS
from tav_core.checkpoints.lora import Lora, fuse_loras
from tav_core.control import Control, residuals
from tav_core.ddim import source_path
from tav_core.demo.miniature import SKS_LORA, miniature_path
from tav_core.demo.settings import Settings
from tav_core.evaluation.evaluate import evaluate
from tav_core.evaluation.variants import VARIANTS
from tav_core.layout import Tokens, align
from tav_core.lend import lent
from tav_core.masks import latent_mask, word_mask
from tav_core.memory import available_memory, tuning_memory
from tav_core.source import Dials, Lender
from tav_core.tune import draw_noise, resolve_checkpointing
from tav_core.world.protocol import clips_to_choose_by
from tests.golden import ddim
from tests.networks import SCHEDULE, text, tiny_unet, video

DEVICE = torch.device(os.environ.get("TAV_TEST_DEVICE", "cuda"))
ON_GPU = DEVICE.type == "cuda"
pytestmark = pytest.mark.skipif(
    ON_GPU and not torch.cuda.is_available(), reason="no CUDA device; TAV_TEST_DEVICE=cpu runs this on the CPU"
)
FLOAT, HALF, BFLOAT = torch.float32, torch.float16, torch.bfloat16
FAST = TuneConfig(num_steps=5, learning_rate=1e-3, gradient_checkpointing=False, mixed_precision="no")


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Float32 as on the CPU, and the same result every time."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    assert torch.get_float32_matmul_precision() == "highest"  # PyTorch's default: matrix products without TF32


def error(got, expected) -> float:
    """The largest difference of a result of the device, relative to the largest value; nan if anything is."""
    assert got.device.type == DEVICE.type
    return ((got.detach().cpu().float() - expected).abs().max() / expected.abs().max()).item()


def randomised(network, seed: int = 3):
    """The same network with random weights in all layers, those that start as zero too."""
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape, generator=generator) / math.sqrt(weight[0].numel())
    return network.eval().requires_grad_(False)


def inflated(device=DEVICE, dtype=FLOAT, **changes):
    """A tiny network whose temporal attention, which starts as zero, counts too."""
    unet = inflate(tiny_unet(), **changes)
    for block in unet.unet.modules():
        if hasattr(block, "attn_temp"):
            randomised(block.attn_temp)
    return unet.to(device, dtype)


def predictor(unet, device=DEVICE, seed=2, kind="epsilon", controls=()) -> NoisePredictor:
    return NoisePredictor(unet, text(1, 77, 32, seed=seed).to(device), ddim(prediction_type=kind), controls)


# --- the network ---


@pytest.mark.parametrize(
    "changes",
    [*({"attention": pattern} for pattern in PATTERNS), {"group_norm": "frame"}, {"temporal": False}],
    ids=lambda changes: "-".join(map(str, *changes.items())),
)
@torch.no_grad()
def test_the_network_predicts_what_it_predicts_on_the_cpu(changes):
    latents, timesteps, per_frame = video(batch=2), torch.tensor([10, 900]), text(2, 4, 7, 32)
    for time, prompt in ((500, text()), (timesteps, per_frame)):
        expected = inflated("cpu", **changes)(latents, time, prompt)
        got = inflated(**changes)(latents.to(DEVICE), time, prompt.to(DEVICE))
        assert error(got, expected) < 1e-4


@pytest.mark.parametrize(("dtype", "bound"), [(BFLOAT, 0.08), (HALF, 0.01)], ids=str)
@torch.no_grad()
def test_half_precision_predicts_nearly_that(dtype, bound):
    got = inflated(dtype=dtype)(video().to(DEVICE), 500, text().to(DEVICE))
    assert got.dtype == FLOAT
    assert 1e-5 < error(got, inflated("cpu")(video(), 500, text())) < bound


@torch.no_grad()
def test_a_network_that_was_moved_deflates_to_one_that_works_there():
    expected = tiny_unet()(video()[:, :, 0], 500, text()).sample
    got = inflate(tiny_unet()).to(DEVICE).deflate()(video()[:, :, 0].to(DEVICE), 500, text().to(DEVICE)).sample
    assert error(got, expected) < 1e-4


# --- tuning ---


def draw(step: int, device=DEVICE):
    """The same draws on every device; by default, `tune` draws on that of the latents, where a seed gives others."""
    drawn = draw_noise(video(), 1000, torch.Generator().manual_seed(step))
    return tuple(tensor.to(device) for tensor in drawn)


def tuned(device=DEVICE, unet=None, config=FAST, kind="epsilon", **options):
    """The losses and gradient norms of tuning a tiny network."""
    unet, scheduler = unet or inflated(device), DDPMScheduler(**SCHEDULE, prediction_type=kind)
    report = tune(unet, video().to(device), text().to(device), scheduler, config, **options)
    assert len(report.losses) == config.num_steps
    return report.losses + report.grad_norms


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_tuning_has_the_losses_it_has_on_the_cpu(kind):
    expected = tuned("cpu", kind=kind, draw=partial(draw, device="cpu"))
    assert tuned(kind=kind, draw=draw) == pytest.approx(expected, rel=1e-3)
    assert tuned(kind=kind) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("stored", "precision"), [(FLOAT, "bf16"), (FLOAT, "fp16"), (BFLOAT, "auto"), (HALF, "auto")], ids=str
)
def test_half_precision_lowers_the_loss_of_a_sample_and_trains_in_float32(stored, precision):
    unet, config = inflated(dtype=stored), replace(FAST, num_steps=12, learning_rate=1e-2, mixed_precision=precision)
    losses = tuned(unet=unet, config=config, draw=lambda step: draw(0))[:12]
    assert losses[0] == pytest.approx(tuned("cpu", draw=partial(draw, device="cpu"))[0], rel=0.05)
    assert losses[-1] < 0.8 * losses[0]
    assert {(p.dtype, p.device.type) for p in unet.trainable_parameters().values()} == {(FLOAT, DEVICE.type)}
    assert unet.dtype == stored
    assert predictor(unet)(video().to(DEVICE), 500).isfinite().all()


def test_precision_and_checkpointing_are_chosen_for_the_device():
    unet, seen = inflated(), []
    unet.unet.mid_block.resnets[0].conv1.register_forward_hook(
        lambda _module, _args, output: seen.append((output.dtype, unet.unet.is_gradient_checkpointing))
    )
    tuned(unet=unet, config=TuneConfig(num_steps=1))
    half = BFLOAT if ON_GPU and torch.cuda.is_bf16_supported(including_emulation=False) else HALF
    assert seen == [(half if ON_GPU else FLOAT, False)]
    assert resolve_checkpointing(TuneConfig(), unet, (1, 4, 8, 2**13, 2**13), DEVICE)  # activations of terabytes


@pytest.mark.parametrize(("precision", "bound"), [("no", 1e-4), ("bf16", 0.05)])
def test_gradient_checkpointing_changes_no_loss(precision, bound):
    config = replace(FAST, mixed_precision=precision)
    without, with_it = (tuned(config=replace(config, gradient_checkpointing=switch)) for switch in (False, True))
    assert with_it == pytest.approx(without, rel=bound)


@pytest.mark.parametrize(("precision", "bound"), [("no", 1e-5), ("fp16", 1e-2)])
def test_an_interrupted_run_resumes_with_the_draws_and_losses_of_a_whole_one(tmp_path, precision, bound):
    def interrupt(step, total, **_):
        if step == 2:
            raise InterruptedError

    path, steps, config = tmp_path / "run.safetensors", [], replace(FAST, mixed_precision=precision)
    with pytest.raises(InterruptedError):
        tuned(config=config, checkpoint=path, on_step=interrupt)
    resumed = tuned(config=config, checkpoint=path, on_step=lambda step, total, **_: steps.append(step))
    assert steps == [3, 4, 5]
    assert resumed == pytest.approx(tuned(config=config), rel=bound)
    assert resumed != pytest.approx(tuned(config=replace(config, seed=1)), rel=bound)


@torch.no_grad()
def test_weights_tuned_on_the_device_apply_there_and_on_the_cpu(tmp_path):
    unet = inflated()
    tuned(unet=unet, config=replace(FAST, learning_rate=1e-2))
    TunedWeights.from_unet(unet).save(tmp_path / "weights.safetensors")
    on_cpu, again = inflated("cpu"), inflated(dtype=HALF)
    for network in (on_cpu, again):
        TunedWeights.load(tmp_path / "weights.safetensors").apply(network)
    latents, prompt, expected = video().to(DEVICE), text().to(DEVICE), on_cpu(video(), 500, text())
    assert error(unet(latents, 500, prompt), expected) < 1e-4
    assert error(again(latents, 500, prompt), expected) < 0.02 < error(inflated()(latents, 500, prompt), expected)


# --- inverting and sampling ---


def edited(device=DEVICE, dtype=FLOAT, kind="epsilon", eta=0.0, refinements=0):
    """A trajectory, and the end of an edit with guidance. Noise is drawn on the CPU, as the shell does."""
    unet, scheduler, generator = inflated(device, dtype), ddim(prediction_type=kind), torch.Generator().manual_seed(0)
    source, edit = (predictor(unet, device, seed, kind) for seed in (2, 3))
    trajectory = invert(source, video().to(device), scheduler, 5, refinements=refinements)
    return trajectory, sample(guided(edit, source, 4.0), trajectory[-1], scheduler, 5, eta=eta, generator=generator)


@pytest.mark.parametrize(
    "options", [{}, {"kind": "v_prediction"}, {"eta": 1.0}, {"refinements": 2}], ids=lambda o: "-".join(o) or "plain"
)
def test_inverting_and_sampling_go_where_they_go_on_the_cpu(options):
    for got, expected in zip(edited(**options), edited("cpu", **options), strict=True):
        assert error(got, expected) < 1e-3


@pytest.mark.parametrize(("dtype", "bound"), [(BFLOAT, 0.3), (HALF, 0.05)], ids=str)
def test_half_precision_goes_nearly_there(dtype, bound):
    for got, expected in zip(edited(dtype=dtype), edited("cpu"), strict=True):
        assert 1e-5 < error(got, expected) < bound


def test_a_generator_of_the_device_draws_the_noise_of_eta():
    def drawn(seed):
        generator = torch.Generator(DEVICE).manual_seed(seed)
        return sample(lambda x, _: 0.1 * x, video().to(DEVICE), ddim(), 5, eta=1.0, generator=generator)

    assert torch.equal(drawn(1), drawn(1))
    assert error(drawn(1), drawn(2).cpu()) > 0.1


# --- control ---

CONTROLS = {
    "ControlNet": lambda: ControlNetModel.from_unet(tiny_unet(), conditioning_embedding_out_channels=(16, 32, 32, 32)),
    "T2I-Adapter": lambda: T2IAdapter(channels=[16, 32], num_res_blocks=1),
}


@pytest.fixture(params=CONTROLS)
def controls(request):
    """(device, dtype) -> controls whose images are on the CPU."""
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(5))

    def made(device, dtype=FLOAT):
        torch.manual_seed(6)  # for the biases
        return (Control(randomised(CONTROLS[request.param]()).to(device, dtype), images, 0.8),)

    return made


@pytest.mark.parametrize(("dtype", "bound"), [(FLOAT, 1e-4), (HALF, 0.02)], ids=str)
@torch.no_grad()
def test_control_by_images_on_the_cpu_guides_a_network_on_the_device(controls, dtype, bound):
    expected = predictor(inflated("cpu"), "cpu", controls=controls("cpu"))(video(batch=2), 500)
    unet = inflated(dtype=dtype)
    got = predictor(unet, controls=controls(DEVICE, dtype))(video(batch=2).to(DEVICE), 500)
    assert error(got, expected) < bound < 0.05 < error(predictor(unet)(video(batch=2).to(DEVICE), 500), expected)


def test_control_guides_tuning(controls):
    def losses(device):
        control = partial(residuals, controls(device), prompt_embeds=text().to(device))
        return tuned(device, draw=partial(draw, device=device), control=control)

    assert losses(DEVICE) == pytest.approx(losses("cpu"), rel=1e-3)
    assert losses(DEVICE) != pytest.approx(tuned(draw=draw), rel=1e-2)


# --- what an edit keeps ---


def tokens(*words: int) -> Tokens:
    ends = 76 - len(words)
    return Tokens((100, *words, *(101,) * ends), (0, *range(1, len(words) + 1), *(0,) * ends))


def kept(dials, masked=False, device=DEVICE, path_on=None, dtype=FLOAT):
    """An edit that keeps something of a clip; its mask is where the network looks for the second word."""
    unet, scheduler = inflated(device, dtype), ddim()
    source, edit = (predictor(unet, device, seed) for seed in (2, 3))
    path = source_path(invert(source, video().to(device), scheduler, 5), scheduler, 5)
    noise, mask = path.trajectory[-1], None
    if masked:
        mask = latent_mask(word_mask(source, path, [2]), 4, (8, 8), grow=4)
        assert 0 < mask.mean() < 1
    path = replace(path, trajectory=path.trajectory.to(path_on or device))
    with lent(unet) as loan:
        lender = Lender(loan, source, path, dials)
        predict = guided(lender.borrowing(edit, align(tokens(1, 2, 3), tokens(1, 9, 3))), lender.borrowing(source), 4.0)
        return sample(predict, noise, scheduler, 5, source=path, mask=mask)


KEPT = [
    {"dials": Dials(structure=0.6)},
    {"dials": Dials(layout=0.6)},
    {"dials": Dials(), "masked": True},
    {"dials": Dials(1.0, 1.0), "masked": True},
]


@pytest.mark.parametrize("keeping", KEPT, ids=str)
def test_an_edit_keeps_what_it_keeps_on_the_cpu(keeping):
    expected = kept(**keeping, device="cpu")
    assert error(kept(**keeping), expected) < 1e-3
    assert error(kept(Dials()), expected) > 0.05


@pytest.mark.parametrize("keeping", KEPT[:3], ids=str)
def test_the_clips_path_may_stay_on_the_cpu_and_the_network_be_in_half_precision(keeping):
    expected = kept(**keeping, device="cpu")
    assert error(kept(**keeping, path_on="cpu"), expected) < 1e-3
    assert error(kept(**keeping, dtype=HALF), expected) < 0.05


# --- checkpoints ---


@pytest.fixture(scope="module")
def miniature():
    return load_checkpoint(miniature_path())


@pytest.mark.parametrize(("dtype", "bound"), [(FLOAT, 1e-3), (HALF, 0.05)], ids=str)
@torch.no_grad()
def test_a_checkpoint_encodes_and_decodes_on_the_device(miniature, dtype, bound):
    opened = load_checkpoint(miniature_path(), device=DEVICE, dtype=dtype)
    prompt, frames = "a red ball on grass", torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    expected, (latents, std) = miniature.encode_prompt(prompt).embeds, miniature.encode_video(frames, posterior=True)
    assert error(opened.encode_prompt(prompt).embeds, expected) < bound
    assert error(opened.encode_video(frames), latents) < bound
    assert error(opened.encode_video(frames.to(DEVICE), posterior=True)[1], std) < bound
    for decoded in (opened.decode_video(latents), opened.decode_video(latents.to(DEVICE))):
        assert decoded.device.type == "cpu"
        assert (decoded - miniature.decode_video(latents)).abs().max() < bound
    time = torch.tensor([500], device=DEVICE)
    got = opened.unet(video()[:, :, 0].to(DEVICE, dtype), time, expected.to(DEVICE, dtype)).sample
    assert error(got, miniature.unet(video()[:, :, 0], 500, expected).sample) < bound


def test_a_lora_is_fused_on_the_device():
    pytest.importorskip("peft")
    fused, on_cpu = load_checkpoint(miniature_path(), device=DEVICE), load_checkpoint(miniature_path())
    before = {name: weight.clone() for name, weight in on_cpu.unet.state_dict().items()}
    for checkpoint in (fused, on_cpu):
        fuse_loras(checkpoint, [Lora(SKS_LORA, 0.8)])
    weights = on_cpu.unet.state_dict()
    assert any(not torch.equal(weights[name], before[name]) for name in before)
    assert all(error(weight, weights[name]) < 1e-4 for name, weight in fused.unet.state_dict().items())


# --- memory ---


def test_free_memory_is_known():
    assert isinstance(available_memory(DEVICE), int)
    assert available_memory(DEVICE) > 2**20


@pytest.mark.skipif(not ON_GPU, reason="peak memory is only recorded on CUDA")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_for_tuning_is_what_the_device_takes(checkpointing, record_property, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)  # whose convolutions in float32 take a GB more
    unet = inflate(tiny_unet(block_out_channels=(64, 128), norm_num_groups=32)).to(DEVICE)
    latents, config = video(frames=16, size=64).to(DEVICE), replace(FAST, num_steps=2, mixed_precision="bf16")
    estimate = tuning_memory(unet, latents.shape, checkpointing=checkpointing, half=True)
    weights = sum(p.numel() * p.element_size() for p in unet.parameters())
    torch.cuda.reset_peak_memory_stats(DEVICE)
    config = replace(config, gradient_checkpointing=checkpointing)
    tune(unet, latents, text(1, 77, 32).to(DEVICE), DDPMScheduler(**SCHEDULE), config)
    ratio = (estimate + weights) / torch.cuda.max_memory_allocated(DEVICE)
    record_property("estimated_over_peak", ratio)
    assert 0.5 < ratio < 2


# --- the evaluation ---


def test_variants_are_measured_on_the_device(tmp_path):
    checkpoint = load_checkpoint(miniature_path(), device=DEVICE)
    names = ("text-to-image", "joint-images", "fixed-point", "keep-all", "keep-all-by-words")
    variants, settings = {name: VARIANTS[name] for name in names}, Settings(2, steps=2, inversion_steps=2, frames=2)
    outcomes = list(evaluate(checkpoint, clips_to_choose_by()[:1], variants, settings, work=tmp_path))
    measured = {outcome.variant: outcome for outcome in outcomes if not outcome.is_reference}
    assert set(measured) == set(names)
    assert all(frames.isfinite().all() for outcome in measured.values() for frames in outcome.edits)
    again = list(evaluate(checkpoint, clips_to_choose_by()[:1], variants, settings, work=tmp_path))
    assert [outcome.figures for outcome in again] == [outcome.figures for outcome in outcomes]
