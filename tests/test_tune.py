import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from torch.utils import checkpoint as torch_checkpoint

from tav_core import TavError, TuneConfig, inflate, tune
from tav_core.files import read_tensors, write_tensors
from tav_core.resume import FORMAT, steps_kept_in
from tav_core.tune import draw_noise
from tav_core.watchdog import PATIENCE, Watchdog
from tests.networks import SCHEDULE, text, tiny_unet, video

FAST = TuneConfig(num_steps=6, learning_rate=1e-3, gradient_checkpointing=False)
OFTEN_SAVED = TuneConfig(num_steps=20, learning_rate=1e-3, gradient_checkpointing=False, checkpoint_every=3)


def run(unet=None, latents=None, config=FAST, scheduler=None, **options):
    """Tunes a tiny network; gives it with the report."""
    unet, scheduler = unet or inflate(tiny_unet()), scheduler or DDPMScheduler(**SCHEDULE)
    latents = video() if latents is None else latents
    return unet, tune(unet, latents, text(), scheduler, config, **options)


def trained(unet) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in unet.trainable_parameters().items()}


def same(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def whole():
    """The weights and the report of a run that nothing interrupts."""
    unet, report = run()
    return trained(unet), report


def test_tuning_lowers_the_loss_and_moves_nothing_else():
    untuned = inflate(tiny_unet()).state_dict()
    untuned = {name: tensor.clone() for name, tensor in untuned.items()}
    unet, report = run(config=replace(FAST, num_steps=40, learning_rate=1e-2))
    assert report.steps == len(report.losses) == len(report.grad_norms) == 40
    assert sum(report.losses[-10:]) < 0.9 * sum(report.losses[:10])
    moved = {name for name, tensor in unet.state_dict().items() if not torch.equal(tensor, untuned[name])}
    assert moved == set(unet.trainable_parameters())


def test_the_same_seed_tunes_to_the_same_weights_and_another_does_not(whole):
    other = run(config=replace(FAST, seed=1))[0]
    assert same(trained(run()[0]), whole[0])
    assert not same(trained(other), whole[0])


def test_gradient_checkpointing_trains_every_tensor_to_the_same_weights(whole):
    start = trained(inflate(tiny_unet()))
    for name, parameter in trained(run(config=replace(FAST, gradient_checkpointing=True))[0]).items():
        assert not torch.equal(parameter, start[name]), name
        torch.testing.assert_close(parameter, whole[0][name], atol=1e-4, rtol=0)


def test_training_leaves_the_network_as_ready_to_use_as_before():
    unet, _ = run(config=TuneConfig(num_steps=1, gradient_checkpointing=True))
    assert not unet.training
    assert not unet.unet.is_gradient_checkpointing
    assert all(p.grad is None and not p.requires_grad for p in unet.parameters())


def test_a_posterior_is_sampled_at_every_step():
    mean, std = video(), torch.full_like(video(), 0.5)
    generator = torch.Generator().manual_seed(0)
    first, second = (draw_noise((mean, std), 1000, generator)[0] for step in range(2))
    assert not torch.equal(first, second)
    assert (first - mean).std() == pytest.approx(0.5, rel=0.2)
    once = replace(FAST, num_steps=1)
    assert run(latents=(mean, std), config=once)[1].losses != run(latents=mean, config=once)[1].losses


def test_control_joins_every_step(whole):
    given = []

    def control(noisy, timesteps):
        given.append(noisy.shape)
        return {"down_intrablock_additional_residuals": [torch.ones(4, 16, 8, 8), torch.ones(4, 32, 4, 4)]}

    assert run(control=control)[1].losses != whole[1].losses
    assert given == [video().shape] * 6


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_keeps_trained_tensors_in_float32(precision):
    config = TuneConfig(num_steps=3, learning_rate=1e-3, mixed_precision=precision)
    unet, report = run(config=config)
    assert all(p.dtype == torch.float32 for p in unet.trainable_parameters().values())
    assert report.losses[0] == pytest.approx(run(config=TuneConfig(num_steps=1))[1].losses[0], rel=0.05)
    half, _ = run(unet=inflate(tiny_unet().to(torch.bfloat16)), config=TuneConfig(num_steps=3, learning_rate=1e-3))
    assert all(p.dtype == torch.float32 for p in half.trainable_parameters().values())
    assert half.unet.conv_in.weight.dtype == torch.bfloat16
    assert {p.dtype for p in half.deflate().parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("precision", "stored", "computes"),
    [
        ("auto", torch.float32, torch.float32),
        ("bf16", torch.float32, torch.bfloat16),
        ("fp16", torch.float32, torch.float16),
        ("auto", torch.bfloat16, torch.bfloat16),
        ("auto", torch.float16, torch.float16),
    ],
)
def test_a_step_computes_in_the_precision_asked_for(precision, stored, computes):
    unet, computed = inflate(tiny_unet().to(stored)), []
    unet.unet.mid_block.resnets[0].conv1.register_forward_hook(lambda *args: computed.append(args[2].dtype))
    run(unet=unet, config=TuneConfig(num_steps=1, mixed_precision=precision))
    assert computed == [computes]


def test_half_precision_latents_are_noised_in_float32():
    clean, noise, _ = draw_noise(video().half(), 1000, torch.Generator().manual_seed(0))
    assert clean.dtype == noise.dtype == torch.float32


# --- checkpoints ---


def test_a_cancelled_run_keeps_its_steps_and_resumes_to_the_same_weights(tmp_path, whole):
    def cancel(step, total, **facts):
        if step == 4:
            raise InterruptedError

    path, steps = tmp_path / "run.safetensors", []
    with pytest.raises(InterruptedError):
        run(checkpoint=path, on_step=cancel)
    resumed, report = run(checkpoint=path, on_step=lambda step, total, **_: steps.append(step))
    assert steps == [5, 6]
    assert same(trained(resumed), whole[0])
    assert report == whole[1]


def test_a_network_that_fails_in_the_middle_of_a_step_loses_nothing(tmp_path, whole):
    path, unet, calls = tmp_path / "run.safetensors", inflate(tiny_unet()), []

    def fail(*_):
        calls.append(1)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("no memory")

    handle = unet.unet.mid_block.register_forward_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        run(unet=unet, checkpoint=path)
    handle.remove()
    assert steps_kept_in(path) == 3
    assert same(trained(run(checkpoint=path)[0]), whole[0])


def test_a_finished_run_is_not_tuned_again_and_may_be_made_longer(tmp_path):
    path, steps = tmp_path / "run.safetensors", []
    finished, _ = run(checkpoint=path)
    again, report = run(checkpoint=path, on_step=lambda step, total, **_: steps.append(step))
    assert steps == []
    assert report.steps == 6
    assert same(trained(finished), trained(again))
    longer = replace(FAST, num_steps=8)
    assert same(trained(run(checkpoint=path, config=longer)[0]), trained(run(config=longer)[0]))


def other_outside_attention():
    """A network that was trained further everywhere but in its attention."""
    unet = tiny_unet()
    unet.conv_out.weight.data *= 1.01
    return unet


def test_a_checkpoint_of_another_run_is_refused_and_kept(tmp_path):
    path = tmp_path / "run.safetensors"
    run(checkpoint=path)
    before = path.read_bytes()
    others = [
        {"config": replace(FAST, learning_rate=2e-3)},
        {"latents": video(seed=9)},
        {"unet": inflate(tiny_unet(seed=1))},
        {"unet": inflate(tiny_unet(), attention="first")},
        {"unet": inflate(other_outside_attention())},
        {"scheduler": DDPMScheduler(**SCHEDULE, prediction_type="v_prediction")},
    ]
    for other in others:
        with pytest.raises(TavError, match="belongs to another run"):
            run(checkpoint=path, **other)
    assert path.read_bytes() == before


def test_a_stopped_run_resumes_in_the_same_process(tmp_path, whole):
    def cancel(step, total, **facts):
        if step == 4:
            raise InterruptedError

    path, unet = tmp_path / "run.safetensors", inflate(tiny_unet())
    with pytest.raises(InterruptedError):
        run(unet=unet, checkpoint=path, on_step=cancel)
    run(unet=unet, checkpoint=path)
    assert same(trained(unet), whole[0])


@pytest.fixture
def ctrl_c_works():
    """Where a shell started the tests in the background, it has switched Ctrl-C off for them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_works")
def test_ctrl_c_in_the_middle_of_an_update_waits_until_it_is_whole(tmp_path, monkeypatch, whole):
    step = torch.optim.AdamW.step

    def interrupted(self, *args, **options):
        signal.raise_signal(signal.SIGINT)
        return step(self, *args, **options)

    path = tmp_path / "run.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", interrupted)
        for done in (1, 2):
            with pytest.raises(KeyboardInterrupt):
                run(checkpoint=path)
            assert steps_kept_in(path) == done
    assert same(trained(run(checkpoint=path)[0]), whole[0])


def test_a_checkpoint_of_more_steps_than_asked_for_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    run(checkpoint=path)
    with pytest.raises(TavError, match="already has 6 steps, but only 2 were asked for"):
        run(checkpoint=path, config=TuneConfig(num_steps=2, learning_rate=1e-3))


def test_a_checkpoint_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TavError, match="Cannot write to"):
        run(checkpoint=tmp_path / "file" / "run.safetensors", on_step=lambda *_, **__: pytest.fail("a step was done"))


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    path.write_bytes(b"half a file")
    with pytest.raises(TavError, match="is damaged"):
        run(checkpoint=path)


@pytest.mark.parametrize("name", ["generator", "parameter", "exp_avg"])
@pytest.mark.parametrize("change", [lambda t: None, lambda t: t.flatten()[:1].clone(), lambda t: t.to(torch.int32)])
def test_a_checkpoint_whose_tensors_do_not_fit_is_refused_with_advice(tmp_path, name, change):
    path = tmp_path / "run.safetensors"
    run(checkpoint=path)
    tensors, metadata = read_tensors(path, FORMAT)
    name = next(key for key in tensors if key.startswith(name))
    changed = tensors | {name: change(tensors[name])}
    write_tensors(path, {key: tensor for key, tensor in changed.items() if tensor is not None}, FORMAT, metadata)
    with pytest.raises(TavError, match=rf"damaged: its {name} is missing or does not fit.* to start again"):
        run(checkpoint=path)


KILLED = """
import os, signal, sys, time, torch
from tests.test_tune import OFTEN_SAVED, run

random = torch.Generator().manual_seed(11)
for _ in range(3):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        run(config=OFTEN_SAVED, checkpoint=sys.argv[1], on_step=lambda *_, **__: os.write(writing, b"."))
        os._exit(0)
    for _ in range(4 + int(torch.randint(0, 2, (), generator=random))):  # steps, and so after the first save
        os.read(reading, 1)
    time.sleep(0.05 * float(torch.rand((), generator=random)))  # anywhere within a step, or a save
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX systems")
def test_a_run_killed_at_any_point_ends_bit_equal_to_one_that_was_not(tmp_path):
    """Three times, in processes that share one import of torch."""
    path, steps = tmp_path / "run.safetensors", []
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", KILLED, path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    resumed, _ = run(config=OFTEN_SAVED, checkpoint=path, on_step=lambda step, total, **_: steps.append(step))
    assert 9 <= steps[0] <= 18, "each of the three got as far as its next save"
    assert same(trained(resumed), trained(run(config=OFTEN_SAVED)[0]))


# --- the watchdog ---


def test_a_loss_that_is_not_finite_stops_the_run_with_good_weights(tmp_path):
    clip, calls = video(), []

    def draw(step):
        calls.append(step)
        latents = clip * float("nan") if step == 3 else clip
        return latents, video(seed=step), torch.tensor([500])

    unet = inflate(tiny_unet())
    with pytest.raises(TavError, match=r"loss became nan at step 4.*Lower learning_rate"):
        run(unet=unet, draw=draw, checkpoint=tmp_path / "run.safetensors")
    assert all(p.isfinite().all() for p in unet.trainable_parameters().values())
    assert steps_kept_in(tmp_path / "run.safetensors") == 3


def test_a_block_that_passes_no_gradients_on_is_named_by_its_tensors():
    unet = inflate(tiny_unet())
    block = unet.unet.down_blocks[0]
    block.forward = torch.no_grad()(block.forward)
    with pytest.raises(TavError, match=r"7 of 28 trained tensors got no gradient at step 1 \(down_blocks\.0"):
        run(unet=unet)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpointing_is_caught(monkeypatch):
    """The original's fault, by which its down blocks never train, put back into diffusers."""
    original = torch_checkpoint.checkpoint
    monkeypatch.setattr(torch_checkpoint, "checkpoint", lambda *args, **_: original(*args, use_reentrant=True))
    with pytest.raises(TavError, match=r"trained tensors got no gradient at step 1"):
        run(config=TuneConfig(num_steps=2, gradient_checkpointing=True))


def test_weights_that_do_not_move_end_the_run_after_twenty_steps():
    steps = []
    with pytest.raises(TavError, match=r"have not changed by step 20 .*Raise learning_rate"):
        run(
            config=TuneConfig(num_steps=30, learning_rate=1e-30),
            on_step=lambda step, total, **_: steps.append(step),
        )
    assert len(steps) == 19


def test_gradients_may_overflow_for_a_while_but_not_for_ever():
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    watchdog = Watchdog({"weight": parameter})
    for step in range(PATIENCE):
        watchdog.before_update(step, 1.0, float("inf"), scaled=True)
    with pytest.raises(TavError, match="gradients became inf at step 21"):
        watchdog.before_update(PATIENCE, 1.0, float("inf"), scaled=True)
    with pytest.raises(TavError, match="gradients became inf at step 1"):
        Watchdog({"weight": parameter}).before_update(0, 1.0, float("inf"), scaled=False)


# --- wrong inputs ---


def test_tuning_works_where_the_caller_has_gradients_off():
    with torch.no_grad():
        assert run(config=TuneConfig(num_steps=1))[1].steps == 1
    with torch.inference_mode():
        with pytest.raises(TavError, match=r"cannot use tensors created in torch.inference_mode\(\)"):
            run(config=TuneConfig(num_steps=1))
        with torch.inference_mode(False):
            unet, latents, prompt = inflate(tiny_unet()), video(), text()
        assert tune(unet, latents, prompt, DDPMScheduler(**SCHEDULE), TuneConfig(num_steps=1)).steps == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, below"),
        ({"num_steps": 500.0}, "num_steps must be a whole number"),
        ({"seed": 2**64}, "seed must be a whole number"),
        ({"learning_rate": 0.0}, "learning_rate must be a number between 0 and 1"),
        ({"learning_rate": "3e-5"}, "learning_rate must be a number between 0 and 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number between 0 and 1"),
        ({"mixed_precision": "fp8"}, "mixed_precision must be one of auto, no, bf16, fp16; got 'fp8'"),
        ({"gradient_checkpointing": "maybe"}, "gradient_checkpointing must be"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a whole number of at least 1"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be a number above 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(TavError, match=message):
        TuneConfig(**setting)


def test_what_cannot_be_tuned_is_refused_before_the_first_step():
    with pytest.raises(TavError, match="needs an inflated network, got a UNet2DConditionModel"):
        run(unet=tiny_unet())
    with pytest.raises(TavError, match=r"needs video latents \(b, c, f, h, w\), got \(4, 4, 8, 8\)"):
        run(latents=video()[0])
    for precision in ("no", "fp16"):
        with pytest.raises(TavError, match=f'"{precision}" does not work with a network stored in torch.bfloat16'):
            run(unet=inflate(tiny_unet().to(torch.bfloat16)), config=TuneConfig(mixed_precision=precision))
    with pytest.raises(TavError, match=r"epsilon or v_prediction can be tuned, got 'sample'"):
        tune(inflate(tiny_unet()), video(), text(), DDPMScheduler(**SCHEDULE, prediction_type="sample"))
