"""What edits keep from a clip: tav_core/source.py around every sampler of the host.

The source runs at each noise level just before the edit; the wrappers sit where all samplers ask for a prediction.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import comfy.model_management
import comfy.samplers
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.sampler_helpers import convert_cond
from comfy.samplers import CFGGuider, Sampler
from torch import Tensor

from ...tav_core.borrow import Loan
from ...tav_core.errors import TavError
from ...tav_core.layout import Layout, attend_with_layout
from ...tav_core.masks import above_threshold, looked_at, word_map
from ...tav_core.source import Dials, SourcePath
from .borrow import KEEP, LOAN, Borrowing
from .inflate import inflated_of
from .schedule import sigmas_of
from .sd_model import blocks_of, transformer_places

SOURCE = "tune_a_video_source"
"""Key of a guider's conditions: the clip's own."""
POSITIVE = "tune_a_video_positive"
"""The ids of the conditions that are the edit's prompt, whose words may be where the clip's are."""


@dataclass(frozen=True, eq=False)
class Keep:
    """What the edits of a MODEL keep.

    path: of the clip's latents, each (f, c, h, w). source: the clip's CONDITIONING. layout: how the edit's words align
    with the clip's; None to leave the layout free. mask: (f, h, w), of the latents' size, 1 where the edit may change
    the clip.
    """

    path: SourcePath
    source: list
    dials: Dials = Dials()
    layout: Layout | None = None
    mask: Tensor | None = None


def with_kept(patcher: ModelPatcher, keep: Keep) -> ModelPatcher:
    """A clone of an inflated MODEL whose edits keep this of a clip."""
    if inflated_of(patcher) is None:
        raise TavError("Keep From Source needs a MODEL for videos; connect it behind Inflate UNet or One-Shot Tune.")
    check_source(keep.source)
    # safe: wrappers and replacements are meant for nodes, and clones copy them
    patcher = without_kept(patcher.clone())
    borrowing = Borrowing.of(patcher)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEEP, _around_sampling(keep, borrowing))
    patcher.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEEP, _around_prediction(keep))
    if keep.dials.layout:
        replaced = patcher.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
        for path, place in transformer_places(patcher).items():
            before = replaced.get(place, replaced.get(place[:2]))
            patcher.set_model_attn2_replace(_attention(f"{path}.attn2", keep.layout, before), *place)
    return patcher


def check_source(source: list) -> None:
    """Raises TavError for a CONDITIONING of several prompts."""
    if len(source) != 1:
        raise TavError(
            f"The source conditioning combines {len(source)} prompts; connect CLIP Text Encode with the prompt that "
            "describes the clip."
        )


def _check_options(model_options: dict, node: str) -> None:
    """Raises TavError for other nodes' changes that the source cannot follow."""
    if "context_handler" in model_options:
        raise TavError(f"{node} does not work with Context Windows yet; remove one of the two nodes.")
    patches = model_options.get("transformer_options", {}).get("patches", {}).get("attn1_patch", ())
    if any("HyperTile" in getattr(patch, "__qualname__", "") for patch in patches):  # it tiles each call differently
        raise TavError(f"{node} does not work with HyperTile; remove one of the two nodes.")


def without_kept(patcher: ModelPatcher) -> ModelPatcher:
    """Removes what a MODEL's edits keep, in place."""
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.PREDICT_NOISE):
        patcher.remove_wrappers_with_key(kind, KEEP)
    return patcher


class _Run:
    """One sampling run: its loan, and its mask in the latents' size, (f, 1, h, w)."""

    def __init__(self, keep: Keep, borrowing: Borrowing, mask: Tensor | None):
        self.loan, self.borrowing, self.mask = Loan(), borrowing, mask


def _around_sampling(keep: Keep, borrowing: Borrowing) -> Callable:
    def sample(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, *args, **kwargs):
        guider, clean = executor.class_obj, keep.path.clean  # safe: the CFGGuider whose sampling is wrapped
        if noise.shape != clean.shape:
            raise TavError(
                f"The latents to sample are {tuple(noise.shape)}, but Keep From Source has a clip of "
                f"{tuple(clean.shape)}; both must have the same frames and size."
            )
        masks = [] if denoise_mask is None else [denoise_mask[:, :1].to("cpu", torch.float32)]
        if keep.mask is not None:
            masks.append(keep.mask[:, None])
        mask = torch.stack(masks).prod(dim=0) if masks else None
        if mask is not None and hasattr(sampler, "change_only"):  # DDIM's own loop does it more exactly
            sampler.change_only(mask, keep.path)
            mask = None
        # a fresh copy, since the host changes conditions in place
        guider.conds[SOURCE] = convert_cond(keep.source)
        guider.tune_a_video = run = _Run(keep, borrowing, mask)
        try:
            output = executor(noise, latent_image, sampler, sigmas, None, *args, **kwargs)
        finally:
            run.loan.forget()
            del guider.tune_a_video
        if mask is None:
            return output
        clean = guider.model_patcher.model.process_latent_out(clean)
        return clean.to(output).lerp(output, mask.to(output).expand_as(output))

    return sample


def _around_prediction(keep: Keep) -> Callable:
    def predict(executor, x, timestep, model_options={}, seed=None):
        guider, sigma = executor.class_obj, timestep.flatten()[0].item()
        run = getattr(guider, "tune_a_video", None)
        if run is None:  # a guider called without its sampling
            return executor(x, timestep, model_options, seed)
        _check_options(model_options, "Keep From Source")
        options = model_options.get("transformer_options", {})
        schedule = options.get("sample_sigmas")
        dials = keep.dials.at(sigma, [sigma] if schedule is None else schedule[:-1].tolist())
        lending = nullcontext()
        if dials or run.mask is not None:
            # the host's noisy latents are z * sqrt(sigma^2 + 1)
            source = (keep.path.at_sigma(sigma) * (sigma**2 + 1) ** 0.5).to(x)
        if dials:
            loan = run.loan
            model_options = {**model_options, "transformer_options": {**options, LOAN: (loan, run.borrowing)}}
            with loan.recording(bool(dials.structure), bool(dials.layout)):
                conditions = [guider.conds[SOURCE]]
                comfy.samplers.calc_cond_batch(guider.inner_model, conditions, source, timestep, model_options)
            lending = loan.lending(bool(dials.structure), keep.layout if dials.layout else None)
            positive = {condition["uuid"] for condition in guider.conds.get("positive") or ()}
            model_options["transformer_options"][POSITIVE] = positive
        else:
            run.loan.forget()
        if run.mask is None:
            with lending:
                return executor(x, timestep, model_options, seed)
        mask = run.mask.to(x).expand_as(x)
        with lending:
            denoised = executor(source.lerp(x, mask), timestep, model_options, seed)
        return keep.path.clean.to(denoised).lerp(denoised, mask)

    return predict


def _attention(name: str, layout: Layout, before: Callable | None) -> Callable:
    """A replacement for a block's cross-attention; it gets query, key and value projected, each (batch, tokens, c)."""

    def attend_prompt(query: Tensor, key: Tensor, value: Tensor, options: dict) -> Tensor:
        def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if before is not None:
                return before(query, key, value, options)
            # safe: the call that CrossAttention itself makes
            return optimized_attention(
                query,
                key,
                value,
                options["n_heads"],
                attn_precision=options["attn_precision"],
                transformer_options=options,
            )

        loan, _ = options.get(LOAN, (None, None))
        if loan is None or loan.layout is None:
            return plain(query, key, value)
        source = loan.kept[f"{name}.to_q"], loan.kept[f"{name}.to_k"]
        ids, output = options["uuids"], plain(query, key, value)
        parts = zip(ids, *(x.chunk(len(ids)) for x in (query, key, value, output)), strict=True)
        return torch.cat(
            [
                attend_with_layout(q, k, v, options["n_heads"], source, layout) if id in options[POSITIVE] else out
                for id, q, k, v, out in parts
            ]
        )

    return attend_prompt


def mask_of_words(
    patcher: ModelPatcher, source: list, path: SourcePath, places: Sequence[int], threshold: float
) -> Tensor:
    """Where a MODEL looks for words in a clip, (f, height, width) of 0 and 1, in pixels.

    source: the clip's CONDITIONING; places: the words' positions in its prompt. threshold: as in tav_core's masks.
    """
    check_source(source)
    _check_options(patcher.model_options, "Mask From Words")
    maps, clean = [], path.clean
    heads = {name: block.heads for name, block in blocks_of(patcher, "transformer").items()}
    borrowing = Borrowing.of(patcher)

    class Look(Sampler):
        """Predicts once at each level, instead of sampling."""

        def sample(self, guider, sigmas, extra_args, callback, *args, **kwargs):
            options = extra_args["model_options"]
            for sigma in sigmas[:-1]:
                loan = Loan()
                given = {**options["transformer_options"], LOAN: (loan, borrowing)}
                noisy = (path.at_sigma(sigma.item()) * (sigma**2 + 1).sqrt().item()).to(sigmas.device)
                with loan.recording(structure=False, layout=True):
                    guider(noisy, sigma.expand(len(noisy)), model_options={**options, "transformer_options": given})
                maps.append(word_map(loan.kept, heads, places, tuple(clean.shape[-2:])).cpu())
                comfy.model_management.throw_exception_if_processing_interrupted()
            return clean.to(sigmas.device)

    guider = CFGGuider(without_kept(patcher.clone()))
    guider.inner_set_conds({"positive": source})
    guider.set_cfg(1.0)
    sigmas = torch.cat([sigmas_of(patcher)[sorted(looked_at(path.timesteps), reverse=True)].cpu(), torch.zeros(1)])
    # safe: as core's BasicGuider and SamplerCustomAdvanced do
    guider.sample(torch.zeros_like(clean), torch.zeros_like(clean), Look(), sigmas, disable_pbar=True, seed=0)
    mask = above_threshold(maps, threshold)
    return torch.nn.functional.interpolate(mask[:, None], scale_factor=8)[:, 0]
