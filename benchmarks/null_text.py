"""Whether null-text optimisation earns its time: edits with and without it, with and without what edits keep.

    python benchmarks/null_text.py --work null-text --clips arc walk --json null-text/figures.json

As in Mokady et al. 2022 (arXiv 2211.09794), and in Video-P2P with one embedding for all frames (Liu et al. 2023, arXiv
2303.04761): the clip is inverted under its own prompt without guidance; then, step by step, the empty prompt's
embeddings are optimised until guided sampling under the clip's prompt goes back along the inversion. Edits use them in
place of the negative prompt. On the clips for choosing settings, with the miniature.
"""

import time
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from choosing import Table, choosing_parser, chosen_clips, parsed
from diffusers import DDIMScheduler
from torch import Tensor

from tav_core.ddim import invert, sample, source_path, visited_timesteps
from tav_core.demo.miniature import miniature_path
from tav_core.demo.settings import SETTINGS
from tav_core.evaluation.evaluate import Outcome
from tav_core.evaluation.judging import figures
from tav_core.evaluation.sampling import Sampler, encode
from tav_core.evaluation.variants import GUIDANCE, LAYOUT, STRUCTURE, Network, Sampling
from tav_core.jobs.base import open_base
from tav_core.layout import align
from tav_core.lend import lent
from tav_core.prediction import NoisePredictor, guided
from tav_core.source import Dials, Lender
from tav_core.world.draw import draw_clip
from tav_core.world.judge import Judge

INNER_STEPS = 10
LEARNING_RATE = 1e-2
CHOICES = {
    "plain": Sampling(),
    "keep all": Sampling(dials=Dials(STRUCTURE, LAYOUT), mask="true"),
}


def optimised(sampler: Sampler, trajectory: Tensor, scale: float) -> dict[int, Tensor]:
    """The empty prompt's embeddings (1, n, d) at each timestep, so that guided sampling follows a trajectory."""
    scheduler = DDIMScheduler.from_config(sampler.scheduler.config, prediction_type="epsilon", clip_sample=False)
    timesteps = visited_timesteps(scheduler, len(trajectory) - 1)
    empty, latents, found = sampler.encoded.empty.embeds.clone(), trajectory[-1], {}
    cond = NoisePredictor(sampler.unet, sampler.encoded.prompt, sampler.scheduler)
    for number, timestep in enumerate(timesteps):
        with torch.no_grad():
            wanted, noise = trajectory[len(timesteps) - 1 - number], cond(latents, timestep)
        empty = empty.detach().requires_grad_()
        optimizer = torch.optim.Adam([empty], lr=LEARNING_RATE * (1 - number / len(timesteps)))
        for _ in range(INNER_STEPS):
            uncond = NoisePredictor(sampler.unet, empty, sampler.scheduler)(latents, timestep)
            after = scheduler.step(uncond + scale * (noise - uncond), timestep, latents).prev_sample
            loss = F.mse_loss(after, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            found[timestep] = empty.detach().clone()
            uncond = NoisePredictor(sampler.unet, found[timestep], sampler.scheduler)(latents, timestep)
            latents = scheduler.step(uncond + scale * (noise - uncond), timestep, latents).prev_sample
    return found


def edits(
    sampler: Sampler, trajectory: Tensor, empty: Mapping[int, Tensor], sampling: Sampling, scale: float
) -> Tensor:
    """Each edit of the clip, (e, c, f, h, w), with these embeddings for the empty prompt."""
    path, scheduler = source_path(trajectory, sampler.scheduler, SETTINGS.inversion_steps), sampler.scheduler
    source = NoisePredictor(sampler.unet, sampler.encoded.prompt, scheduler)

    def uncond(latents: Tensor, timestep: int) -> Tensor:
        return NoisePredictor(sampler.unet, empty[timestep], scheduler)(latents, timestep)

    made = []
    for number, edit in enumerate(sampler.clip.edits):
        cond = NoisePredictor(sampler.unet, sampler.encoded.edits[number : number + 1], scheduler)
        tokens = sampler.checkpoint.tokens
        with lent(sampler.unet) as loan:
            lender = Lender(loan, source, path, sampling.dials)
            layout = align(tokens(sampler.clip.prompt), tokens(edit.prompt))
            predict = guided(lender.borrowing(cond, layout), lender.borrowing(uncond), scale)
            mask = sampler.mask(edit, sampling.mask, path)
            made.append(sample(predict, trajectory[-1], scheduler, SETTINGS.steps, source=path, mask=mask))
    return torch.cat(made)


def main() -> None:
    options = parsed(choosing_parser(__doc__, "null-text"))
    checkpoint = open_base(miniature_path(), device=torch.device("cpu")).checkpoint
    table = Table(options)
    for clip in chosen_clips(options):
        frames = torch.from_numpy(draw_clip(clip.scenes(SETTINGS.frames))).float() / 255
        judges = [Judge(edit, SETTINGS.frames) for edit in clip.edits]
        encoded = encode(checkpoint, clip, SETTINGS.frames)
        sampler = Sampler(checkpoint, clip, encoded, Network(), SETTINGS, (0, 1))
        plain = NoisePredictor(sampler.unet, encoded.prompt, sampler.scheduler)
        trajectory = invert(plain, encoded.latents, sampler.scheduler, SETTINGS.inversion_steps)
        for scale in (SETTINGS.guidance_scale, GUIDANCE):
            began = time.perf_counter()
            found = optimised(sampler, trajectory, scale)
            print(f"{clip.name}: optimised for guidance {scale} in {time.perf_counter() - began:.0f} s", flush=True)
            nothing = dict.fromkeys(found, encoded.empty.embeds)
            for name, sampling in CHOICES.items():
                sampling = replace(sampling, guidance_scale=scale)
                for way, empty in (("null text", found), ("empty prompt", nothing)):
                    videos = [
                        checkpoint.decode_video(each[None])
                        for each in edits(sampler, trajectory, empty, sampling, scale)
                    ]
                    choice = f"{name}, guidance {scale:g}, {way}"
                    measured = figures(judges, frames, videos, None)
                    table.add(choice, Outcome(clip, choice, frames, videos, None, measured))
    table.show()


if __name__ == "__main__":
    main()
