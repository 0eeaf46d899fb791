"""A clip's inverted noise on the host's samplers: as the NOISE of a custom sampler, and guarded against mistakes."""

from collections.abc import Callable

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...tav_core.errors import TavError
from .borrow import KEEP
from .latents import noise_level
from .replacements import is_ours, replacements
from .sd_model import transformer_places

NOISY = 4.0
"""The root mean square of latents, as the network sees them, above which they are noise: a clip's is about 1, and its
inverted noise's above 10."""


class InvertedNoise:
    """NOISE for SamplerCustomAdvanced: sampling starts at the inverted noise, whatever latents it is given.

    samples: of the inverted LATENT, (f, c, h, w). sigma: the noise level at which the inversion ended.
    """

    seed = 0

    def __init__(self, patcher: ModelPatcher, samples: Tensor, sigma: float):
        self.scaled, self.samples, self.sigma = patcher.model.process_latent_in, samples, sigma

    def generate_noise(self, latent: dict) -> Tensor:
        """The host adds this, times sigma, to the latents."""
        given = latent["samples"]
        if given.shape != self.samples.shape:
            raise TavError(
                f"The noise from DDIM Invert is {tuple(self.samples.shape)}, but the latents are {tuple(given.shape)}; "
                "connect DDIM Invert's own latent."
            )
        return (self.scaled(self.samples.to(given.device)) - self.scaled(given)) / self.sigma


def guarded(executor: Callable, noise, latent_image, sampler, sigmas, denoise_mask=None, *args, **kwargs):
    """An OUTER_SAMPLE wrapper that refuses what the host's samplers would turn into garbage without a word."""
    patcher = executor.class_obj.model_patcher  # safe: the CFGGuider whose sampling is wrapped
    replaced = replacements(patcher.model_options, "attn1")
    for place in transformer_places(patcher).values():
        if not is_ours(replaced.get(place, replaced.get(place[:2]))):
            raise TavError(
                f"Another node replaces the self-attention of the {place[0]} block {place[1]}, as Self-Attention "
                "Guidance does, and frames would not attend to each other there; remove that node."
            )
    level = noise_level(latent_image, patcher)
    if level > NOISY and len(sigmas) and not getattr(sampler, "takes_inverted_noise", False):
        first = sigmas[0].item()
        if noise.any():
            raise TavError(
                "This sampler adds noise to the inverted noise of a clip, which destroys its motion. Use TAV Sample, "
                "or KSampler (Advanced) with add_noise set to disable, or SamplerCustomAdvanced with the noise output "
                "of DDIM Invert."
            )
        if level > 2 * first:
            raise TavError(
                f"These latents are the inverted noise of a clip, far noisier than the level {first:.2f} at which this "
                "sampler starts; let it start at step 0 with denoise 1, or use TAV Sample."
            )
        if denoise_mask is not None and not patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, KEEP):
            raise TavError(
                "This sampler cannot mask a clip's inverted noise: outside of the mask it would keep noise. Use TAV "
                "Sample, or put Keep From Source before this sampler."
            )
    return executor(noise, latent_image, sampler, sigmas, denoise_mask, *args, **kwargs)
