import pytest
import torch
from diffusers import DDIMScheduler

from tav_core import NoisePredictor, TavError, inflate, invert, sample
from tav_core.borrow import Structure
from tav_core.ddim import source_path
from tav_core.layout import Tokens, align
from tav_core.lend import lent, structure_of
from tav_core.source import Dials, Lender, SourcePath
from tests.networks import SCHEDULE, text, tiny_unet, video

SOURCE_STEPS = 10


def ddim(**config) -> DDIMScheduler:
    return DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **config)


def predictor(unet, seed: int = 2) -> NoisePredictor:
    return NoisePredictor(unet, text(1, 77, 32, seed=seed), ddim())


def path_of(unet) -> SourcePath:
    return source_path(invert(predictor(unet), video(), ddim(), SOURCE_STEPS), ddim(), SOURCE_STEPS)


def plain_tokens(*words: int) -> Tokens:
    """A prompt of words of one token each, padded with the end token."""
    ends = 76 - len(words)
    return Tokens((100, *words, *(101,) * ends), (0, *range(1, len(words) + 1), *(0,) * ends))


def test_a_path_holds_the_latents_of_each_step_and_the_line_between_two():
    scheduler, constant = ddim(), video(seed=5)
    trajectories = {n: invert(lambda *_: constant, video(), scheduler, n) for n in (10, 50)}
    paths = {n: source_path(trajectory, scheduler, n) for n, trajectory in trajectories.items()}
    for index, timestep in enumerate(paths[10].timesteps):
        assert torch.equal(paths[10].at(timestep), trajectories[10][index + 1])
    # where the prediction is the same at all levels, ten steps and fifty follow the same line
    for timestep in (0, *paths[50].timesteps, 999):
        torch.testing.assert_close(paths[10].at(timestep), paths[50].at(timestep), atol=1e-5, rtol=1e-5)
    assert torch.equal(paths[10].clean, video())


def test_the_windows_of_a_step_share_what_was_interpolated_for_it():
    scheduler = ddim()
    path = source_path(invert(lambda *_: video(seed=5), video(), scheduler, 10), scheduler, 10)
    between, other = path.at(500), path.at(650)
    assert path.at(650) is other
    assert path.at(500) is not between  # only the latest is held
    assert torch.equal(path.at(500), between)


def test_a_path_needs_a_timestep_for_each_level():
    with pytest.raises(TavError, match="3 latents and 3 timesteps"):
        SourcePath(torch.zeros(3, 1), (1, 2, 3), torch.ones(1000))


@pytest.mark.parametrize(("share", "steps"), [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_a_dial_is_a_share_of_the_sampling_steps(share, steps):
    timesteps = (901, 601, 301, 1)
    active = [bool(Dials(structure=share).at(timestep, timesteps)) for timestep in timesteps]
    assert active == [bool(Dials(structure=share).at(timestep, timesteps[::-1])) for timestep in timesteps]
    assert active == [True] * steps + [False] * (4 - steps)


@pytest.mark.parametrize("name", ["structure", "layout"])
def test_dials_outside_their_range_are_refused(name):
    with pytest.raises(TavError, match=f"keep_{name}.*from 0 to 1"):
        Dials(**{name: 1.5})


def test_without_dials_an_edit_is_what_it_was():
    unet = inflate(tiny_unet())
    path = path_of(unet)
    expected = sample(predictor(unet, 3), path.trajectory[-1], ddim(), 5)
    with lent(unet) as loan:
        lender = Lender(loan, predictor(unet), path, Dials())
        got = sample(lender.borrowing(predictor(unet, 3)), path.trajectory[-1], ddim(), 5)
    assert torch.equal(got, expected)
    assert torch.equal(sample(predictor(unet, 3), path.trajectory[-1], ddim(), 5), expected)  # nothing stays hooked


@pytest.mark.parametrize("pattern", ["sparse-causal", "first", "frame", "full"])
def test_the_source_borrows_from_itself_without_a_change(pattern):
    unet = inflate(tiny_unet(), attention=pattern)
    path, words = path_of(unet), plain_tokens(1, 2, 3)
    latents = path.at(901)
    expected = predictor(unet)(latents, 901)
    with lent(unet, everything(unet)) as loan:
        lender = Lender(loan, predictor(unet), path, Dials(1.0, 1.0))
        got = lender.borrowing(predictor(unet), align(words, words))(latents, 901)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def everything(unet) -> Structure:
    found = structure_of(unet.unet)
    return Structure(found.features, found.attention, found.attention)


@pytest.mark.parametrize("dials", [Dials(structure=1.0), Dials(layout=1.0)])
def test_each_dial_brings_an_edit_closer_to_the_source_and_every_sample_of_a_batch_alike(dials):
    unet = inflate(tiny_unet())
    path, words = path_of(unet), plain_tokens(1, 2, 3)
    edits = torch.cat([path.at(901), video(seed=9)])
    alone = [predictor(unet, 3)(edit[None], 901) for edit in edits]
    with lent(unet, everything(unet)) as loan:
        borrowing = Lender(loan, predictor(unet), path, dials).borrowing(predictor(unet, 3), align(words, words))
        both = borrowing(edits, 901)
        each = [borrowing(edit[None], 901) for edit in edits]
    source = predictor(unet)(path.at(901), 901)
    assert (both[:1] - source).abs().mean() < (alone[0] - source).abs().mean() - 1e-4
    torch.testing.assert_close(both, torch.cat(each), atol=1e-5, rtol=1e-5)


def test_borrowing_from_other_frames_is_refused():
    unet = inflate(tiny_unet())
    with lent(unet) as loan:
        lender = Lender(loan, predictor(unet), path_of(unet), Dials(1.0))
        with pytest.raises(TavError, match="same frames and the same size"):
            lender.borrowing(predictor(unet, 3))(video(frames=6), 901)


def test_outside_of_a_mask_an_edit_is_the_clip():
    unet = inflate(tiny_unet())
    path = path_of(unet)
    mask = torch.zeros(1, 1, 4, 8, 8)
    mask[..., 2:5, 2:5] = 1
    got = sample(predictor(unet, 3), path.trajectory[-1], ddim(), 5, source=path, mask=mask)
    outside = (mask == 0).expand_as(got)
    assert torch.equal(got[outside], video()[outside])
    assert (got - video())[~outside].abs().min() > 0
    whole = sample(predictor(unet, 3), path.trajectory[-1], ddim(), 5, source=path, mask=torch.ones_like(mask))
    assert torch.equal(whole, sample(predictor(unet, 3), path.trajectory[-1], ddim(), 5))


def test_refinements_bring_the_reconstruction_closer_to_the_clip():
    predict, errors = predictor(inflate(tiny_unet())), []
    for refinements in (0, 3):
        noise = invert(predict, video(), ddim(), 20, refinements=refinements)[-1]
        errors.append((sample(predict, noise, ddim(), 20) - video()).square().mean())
    assert errors[1] < 0.5 * errors[0]
