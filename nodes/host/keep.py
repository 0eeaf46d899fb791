"""What edits keep from a clip: tav_core/source.py around every sampler of the host.

The source runs at each noise level just before the edit; the wrappers sit where all samplers ask for a prediction.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.sampler_helpers import convert_cond, prepare_mask
from torch import Tensor

from ...tav_core.borrow import Loan
from ...tav_core.errors import TavError
from ...tav_core.layout import Layout, attend_with_layout
from ...tav_core.source import Dials, SourcePath
from .borrow import KEEP, LOAN, Borrowing
from .conditioning import check_prompts, only_prompt
from .control import check_controls, of_frames
from .inflate import host_attention, inflated_of
from .keep_checks import check_clip, check_cross_attention, check_options, ids_of
from .replacements import is_ours, marked, replacements
from .sd_model import transformer_places
from .windows import FRAMES_SEEN

NODE = "Keep From Source"
SOURCE = "tune_a_video_source"
"""Key of a guider's conditions: the clip's own."""
POSITIVE = "tune_a_video_positive"
"""The ids of the conditions that are the edit's prompt, whose words may be where the clip's are."""


@dataclass(frozen=True, eq=False)
class Keep:
    """What the edits of a MODEL keep.

    path: of the clip's latents, each (f, c, h, w). source: the clip's CONDITIONING. layout: how the words of `edit`, a
    CONDITIONING, align with the clip's; None to leave the layout free. mask: (f, h, w), of the latents' size, 1 where
    the edit may change the clip.
    """

    path: SourcePath
    source: list
    dials: Dials = Dials()
    layout: Layout | None = None
    edit: list | None = None
    mask: Tensor | None = None


def with_kept(patcher: ModelPatcher, keep: Keep) -> ModelPatcher:
    """A clone of an inflated MODEL whose edits keep this of a clip."""
    if inflated_of(patcher) is None:
        raise TavError(f"{NODE} needs a MODEL for videos; connect it behind Inflate UNet or One-Shot Tune.")
    only_prompt(keep.source, NODE)
    check_prompts(keep.source, len(keep.path.clean))
    check_controls(keep.source, keep.path.clean, patcher)
    # safe: wrappers and replacements are meant for nodes, and clones copy them
    patcher = without_kept(patcher.clone())
    borrowing = Borrowing.of(patcher)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEEP, _around_sampling(keep, borrowing))
    patcher.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEEP, _around_prediction(keep))
    if keep.dials.layout:
        check_cross_attention(patcher.model_options)
        for path, place in transformer_places(patcher).items():
            patcher.set_model_attn2_replace(_attention(f"{path}.attn2", keep.layout), *place)
    return patcher


def without_kept(patcher: ModelPatcher) -> ModelPatcher:
    """Removes what a MODEL's edits keep, in place."""
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.PREDICT_NOISE):
        patcher.remove_wrappers_with_key(kind, KEEP)
    options = patcher.model_options["transformer_options"]
    if replaced := replacements(patcher.model_options, "attn2"):
        others = {place: one for place, one in replaced.items() if not is_ours(one)}
        # safe: the host, too, makes new dicts when it adds a replacement, since clones share them
        patches = {**options["patches_replace"], "attn2": others}
        patcher.model_options["transformer_options"] = {**options, "patches_replace": patches}
    return patcher


class _Run:
    """One sampling run: its loan, its mask in the latents' size, (f, 1, h, w), and the ids of the edit's conditions."""

    def __init__(self, keep: Keep, borrowing: Borrowing, mask: Tensor | None):
        self.loan, self.borrowing, self.mask = Loan(), borrowing, mask
        self.positive: set | None = None


def _around_sampling(keep: Keep, borrowing: Borrowing) -> Callable:
    def sample(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, *args, **kwargs):
        guider, clean = executor.class_obj, keep.path.clean  # safe: the CFGGuider whose sampling is wrapped
        if noise.shape != clean.shape:
            raise TavError(
                f"The latents to sample are {tuple(noise.shape)}, but {NODE} has a clip of "
                f"{tuple(clean.shape)}; both must have the same frames and size."
            )
        check_options(guider.model_options, NODE)
        if keep.dials.layout:
            check_cross_attention(guider.model_options)
        check_clip(keep.path, noise, latent_image, sampler, sigmas, guider.model_patcher)
        masks = []
        if denoise_mask is not None:
            if denoise_mask.shape != noise.shape:  # in ComfyUI 0.3.64, where the host prepares it later
                denoise_mask = prepare_mask(denoise_mask, noise.shape, "cpu")
            masks.append(denoise_mask[:, :1].to("cpu", torch.float32))
        if keep.mask is not None:
            masks.append(keep.mask[:, None].to("cpu", torch.float32))
        mask = torch.stack(masks).prod(dim=0) if masks else None
        if mask is not None and hasattr(sampler, "change_only"):  # DDIM's own loop does it more exactly
            sampler.change_only(mask, keep.path)
            mask = None
        last = sigmas[-1].item()  # above 0 if another sampler goes on from there; some samplers write into sigmas
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
        clean = keep.path.at_sigma(last) * (last**2 + 1) ** 0.5 if last else clean
        clean = guider.model_patcher.model.process_latent_out(clean)
        return clean.to(output).lerp(output, mask.to(output).expand_as(output))

    return sample


def _around_prediction(keep: Keep) -> Callable:
    def predict(executor, x, timestep, model_options={}, seed=None):
        guider, sigma = executor.class_obj, timestep.flatten()[0].item()
        run = getattr(guider, "tune_a_video", None)
        if run is None:  # a guider called without its sampling
            return executor(x, timestep, model_options, seed)
        options = model_options.get("transformer_options", {})
        frames = list(options.get(FRAMES_SEEN) or range(len(keep.path.clean)))
        dials = keep.dials.at(sigma, keep.path.sigmas)
        lending = nullcontext()
        if dials or run.mask is not None:
            # the host's noisy latents are z * sqrt(sigma^2 + 1)
            source = (keep.path.at_sigma(sigma)[frames] * (sigma**2 + 1) ** 0.5).to(x)
        if dials:
            loan = run.loan
            model_options = {**model_options, "transformer_options": {**options, LOAN: (loan, run.borrowing)}}
            with loan.recording(bool(dials.structure), bool(dials.layout)):
                conditions = [guider.conds[SOURCE]]
                comfy.samplers.calc_cond_batch(guider.inner_model, conditions, source, timestep, model_options)
            lending = loan.lending(bool(dials.structure), keep.layout if dials.layout else None)
            if dials.layout:
                if run.positive is None:
                    run.positive = ids_of(keep.edit, guider.conds.get("positive") or ())
                model_options["transformer_options"][POSITIVE] = run.positive
        else:
            run.loan.forget()
        if run.mask is None:
            with lending:
                return executor(x, timestep, model_options, seed)
        mask = of_frames(run.mask, frames).to(x).expand_as(x)
        with lending:
            denoised = executor(source.lerp(x, mask), timestep, model_options, seed)
        return keep.path.clean[frames].to(denoised).lerp(denoised, mask)

    return predict


def _attention(name: str, layout: Layout) -> Callable:
    """A replacement for a block's cross-attention; it gets query, key and value projected, each (batch, tokens, c)."""

    def attend_prompt(query: Tensor, key: Tensor, value: Tensor, options: dict) -> Tensor:
        loan, _ = options.get(LOAN, (None, None))
        if loan is None or loan.layout is None:
            return host_attention(query, key, value, options)
        source = loan.source_of(name)
        if source[0].shape[1] != query.shape[1]:
            raise TavError("keep_layout needs a prompt for whole frames, but the sampler's is for an area; remove it.")
        ids, heads = options["uuids"], options["n_heads"]
        parts = zip(ids, *(x.chunk(len(ids)) for x in (query, key, value)), strict=True)
        return torch.cat(
            [
                attend_with_layout(*part, heads, source, layout)
                if condition in options[POSITIVE]
                else host_attention(*part, options)
                for condition, *part in parts
            ]
        )

    return marked(attend_prompt)
