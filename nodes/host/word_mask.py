"""A mask from words: where a MODEL looks for them in a clip, at some noise levels on the clip's path."""

from collections.abc import Sequence
from functools import partial

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider, Sampler
from torch import Tensor

from ...tav_core.borrow import Loan
from ...tav_core.masks import above_threshold, looked_at, word_map
from ...tav_core.source import SourcePath
from ...tav_core.windows import per_window
from .borrow import LOAN, Borrowing
from .conditioning import check_prompts, only_prompt
from .control import check_controls
from .ddim import for_inversion
from .keep_checks import check_options
from .lora import check_loras
from .schedule import sigmas_of
from .sd_model import blocks_of
from .windows import conditioned, conditions_on, undivided, windows_of

NODE = "Mask From Words"


def mask_of_words(
    patcher: ModelPatcher, source: list, path: SourcePath, places: Sequence[int], threshold: float
) -> Tensor:
    """Where a MODEL looks for words in a clip, (f, height, width) of 0 and 1, in pixels.

    source: the clip's CONDITIONING; places: the words' positions in its prompt. threshold: as in tav_core's masks.
    """
    only_prompt(source, NODE)
    check_prompts(source, len(path.clean))
    check_controls(source, path.clean, patcher)
    check_loras(patcher)
    check_options(patcher.model_options, NODE)
    maps, clean, windows = [], path.clean, windows_of(patcher)
    heads = {name: block.heads for name, block in blocks_of(patcher, "transformer").items()}
    borrowing = Borrowing.of(patcher)

    class Look(Sampler):
        """Predicts once at each level, instead of sampling."""

        def sample(self, guider, sigmas, extra_args, callback, *args, **kwargs):
            options = extra_args["model_options"]

            def look(sigma: Tensor, frames: list[int]) -> Tensor:
                loan = Loan()
                given = {**options["transformer_options"], LOAN: (loan, borrowing)}
                noisy = (path.at_sigma(sigma.item())[frames] * (sigma**2 + 1).sqrt().item()).to(sigmas.device)
                conds = conditions_on(guider, frames, len(clean))
                with loan.recording(structure=False, layout=True), conditioned(guider, conds):
                    guider(noisy, sigma.expand(len(noisy)), model_options={**options, "transformer_options": given})
                comfy.model_management.throw_exception_if_processing_interrupted()
                return word_map(loan.kept, heads, places, tuple(clean.shape[-2:])).cpu()

            maps.extend(per_window(windows, len(clean), partial(look, sigma)) for sigma in sigmas[:-1])
            return clean.to(sigmas.device)

    guider = CFGGuider(undivided(for_inversion(patcher)))
    guider.inner_set_conds({"positive": source})
    guider.set_cfg(1.0)
    sigmas = torch.cat([sigmas_of(patcher)[sorted(looked_at(path.timesteps), reverse=True)].cpu(), torch.zeros(1)])
    # safe: as core's BasicGuider and SamplerCustomAdvanced do
    guider.sample(torch.zeros_like(clean), torch.zeros_like(clean), Look(), sigmas, disable_pbar=True, seed=0)
    return above_threshold(maps, threshold)
