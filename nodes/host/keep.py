"""What edits keep from a clip: tav_core/source.py around every sampler of the host.

The source runs at each noise level just before the edit; the wrappers sit where all samplers ask for a prediction.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import comfy.model_management
import comfy.samplers
import torch
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
from ...tav_core.windows import per_window
from .borrow import KEEP, LOAN, Borrowing
from .conditioning import PARTIAL
from .control import check_controls, of_frames
from .inflate import host_attention, inflated_of
from .latents import ends_at
from .noise import NOISY, OURS
from .schedule import sigmas_of
from .sd_model import blocks_of, transformer_places
from .windows import FRAMES_SEEN, conditioned, conditions_on, windows_of, without_windows

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
        raise TavError("Keep From Source needs a MODEL for videos; connect it behind Inflate UNet or One-Shot Tune.")
    check_source(keep.source)
    check_controls(keep.source, keep.path.clean, patcher)
    # safe: wrappers and replacements are meant for nodes, and clones copy them
    patcher = without_kept(patcher.clone())
    borrowing = Borrowing.of(patcher)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEEP, _around_sampling(keep, borrowing))
    patcher.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEEP, _around_prediction(keep))
    if keep.dials.layout:
        if _others_replace(patcher.model_options):
            raise TavError(OTHERS)
        for path, place in transformer_places(patcher).items():
            patcher.set_model_attn2_replace(_attention(f"{path}.attn2", keep.layout), *place)
    return patcher


def check_source(source: list) -> None:
    """Raises TavError for a CONDITIONING of several prompts, or of one that does not always apply."""
    if len(source) != 1:
        raise TavError(
            f"The source conditioning combines {len(source)} prompts; connect CLIP Text Encode with the prompt that "
            "describes the clip."
        )
    ((_, options),) = source
    whole = {"start_percent": 0.0, "end_percent": 1.0}
    if partial := [n for n in PARTIAL if options.get(n) is not None and options[n] != whole.get(n, ...)]:
        raise TavError(
            f"The source prompt must apply to the whole video at all steps, but the conditioning has "
            f"{PARTIAL[partial[0]]}; connect CLIP Text Encode with the prompt that describes the clip."
        )


OTHERS = (
    "Another node replaces cross-attention, as IP-Adapter does, and so does keep_layout; set keep_layout to 0, or "
    "remove that node."
)


def _others_replace(model_options: dict) -> bool:
    """Whether another node replaces cross-attention."""
    replaced = model_options.get("transformer_options", {}).get("patches_replace", {}).get("attn2", {})
    return any(not hasattr(one, OURS) for one in replaced.values())


def _check_options(model_options: dict, node: str) -> None:
    """Raises TavError for other nodes' changes that the source cannot follow."""
    if "context_handler" in model_options:
        raise TavError(f"{node} does not work with Context Windows yet; remove one of the two nodes.")
    options = model_options.get("transformer_options", {})
    # these tile, merge or skip each call in another way, so that what the source lends would not fit
    for patch in options.get("patches", {}).get("attn1_patch", ()):
        for name, title in (("HyperTile", "HyperTile"), ("Tome", "Token Merging")):
            if name in getattr(patch, "__qualname__", ""):
                raise TavError(f"{node} does not work with {title}; remove one of the two nodes.")
    for wrappers in options.get("wrappers", {}).values():
        for key, title in (("easycache", "EasyCache"), ("lazycache", "LazyCache")):
            if wrappers.get(key):
                raise TavError(f"{node} does not work with {title}; remove one of the two nodes.")


def without_kept(patcher: ModelPatcher) -> ModelPatcher:
    """Removes what a MODEL's edits keep, in place."""
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.PREDICT_NOISE):
        patcher.remove_wrappers_with_key(kind, KEEP)
    options = patcher.model_options["transformer_options"]
    if replaced := options.get("patches_replace", {}).get("attn2"):
        others = {place: one for place, one in replaced.items() if not hasattr(one, OURS)}
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
                f"The latents to sample are {tuple(noise.shape)}, but Keep From Source has a clip of "
                f"{tuple(clean.shape)}; both must have the same frames and size."
            )
        _check_options(guider.model_options, "Keep From Source")
        if keep.dials.layout and _others_replace(guider.model_options):
            raise TavError(OTHERS)
        _check_clip(keep.path, noise, latent_image, sampler, sigmas, guider.model_patcher)
        masks = [] if denoise_mask is None else [denoise_mask[:, :1].to("cpu", torch.float32)]
        if keep.mask is not None:
            masks.append(keep.mask[:, None])
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


def _check_clip(
    path: SourcePath, noise: Tensor, latents: Tensor, sampler, sigmas: Tensor, patcher: ModelPatcher
) -> None:
    """Raises TavError for the inverted noise of another clip."""
    from_noise = len(sigmas) and math.isclose(sigmas[0].item(), path.sigmas[-1], rel_tol=1e-3)
    own = getattr(sampler, "takes_inverted_noise", False) or not noise.any()
    noisy = patcher.model.process_latent_in(latents)
    if from_noise and own and noisy.square().mean().sqrt() > NOISY and not ends_at(path, noisy):
        raise TavError(
            "The latents to sample are not the ones that Keep From Source got; connect the same output of DDIM Invert "
            "to both."
        )


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
                    run.positive = _ids_of(keep.edit, guider.conds.get("positive") or ())
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


def _ids_of(edit: list, conditions: Sequence[dict]) -> set:
    """The ids of those conditions that are this CONDITIONING; raises TavError if none is."""
    given = [text for text, _ in edit]

    def same(one: Tensor) -> bool:
        return any(one.shape == text.shape and torch.allclose(one.float().cpu(), text.float().cpu()) for text in given)

    ids = {one["uuid"] for one in conditions if same(one["model_conds"]["c_crossattn"].cond)}
    if not ids:
        raise TavError(
            "keep_layout was set up for another prompt than the sampler's positive one; connect the same conditioning "
            "to edit of Keep From Source and to the sampler."
        )
    return ids


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

    setattr(attend_prompt, OURS, True)
    return attend_prompt


def mask_of_words(
    patcher: ModelPatcher, source: list, path: SourcePath, places: Sequence[int], threshold: float
) -> Tensor:
    """Where a MODEL looks for words in a clip, (f, height, width) of 0 and 1, in pixels.

    source: the clip's CONDITIONING; places: the words' positions in its prompt. threshold: as in tav_core's masks.
    """
    check_source(source)
    _check_options(patcher.model_options, "Mask From Words")
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

    guider = CFGGuider(without_windows(without_kept(patcher.clone())))
    guider.inner_set_conds({"positive": source})
    guider.set_cfg(1.0)
    sigmas = torch.cat([sigmas_of(patcher)[sorted(looked_at(path.timesteps), reverse=True)].cpu(), torch.zeros(1)])
    # safe: as core's BasicGuider and SamplerCustomAdvanced do
    guider.sample(torch.zeros_like(clean), torch.zeros_like(clean), Look(), sigmas, disable_pbar=True, seed=0)
    return above_threshold(maps, threshold)
