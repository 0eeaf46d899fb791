"""Turns a CONDITIONING's ControlNets into tuning residuals, and rejects mismatches early."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import comfy.model_management
import torch
from comfy.controlnet import ControlBase, ControlLora, ControlNet, T2IAdapter
from comfy.model_patcher import ModelPatcher
from einops import rearrange
from torch import Tensor

from ...tav_core.errors import TavError
from ...tav_core.families import check_addition, family_of_addition
from ...tav_core.fingerprints import digest_of
from .schedule import sigmas_of
from .sd_model import family_of, unet_config

Residuals = Callable[[Tensor, Tensor], dict[str, Tensor | tuple]]


@contextmanager
def residuals_of(
    control: ControlBase | None, patcher: ModelPatcher, conditions: Mapping[str, Tensor]
) -> Iterator[Residuals | None]:
    """Yields a function from noisy latents (1, c, f, h, w) and timesteps (1,) to an inflated UNet's residual arguments.

    Its third argument `frames` says which of the clip's frames they are, if they are not all. None without control.
    conditions: as `conditions_of` gives them. ControlNets stay on the device until the context ends.
    """
    if control is None:
        yield None
        return
    sampling, sigmas = patcher.get_model_object("model_sampling"), sigmas_of(patcher)
    # safe: what the host does around a sampling run: load the models, pre_run with this MODEL, run, clean up
    comfy.model_management.load_models_gpu(control.get_models())
    layers, levels = unet_config(patcher)["num_res_blocks"][0], len(unet_config(patcher)["channel_mult"])
    model = SimpleNamespace(model_sampling=sampling, diffusion_model=patcher.model.diffusion_model)
    control.pre_run(model, sampling.percent_to_sigma)

    def residuals(noisy: Tensor, timesteps: Tensor, frames: Sequence[int] | None = None) -> dict[str, Tensor | tuple]:
        sigma = sigmas[timesteps.cpu()].to(noisy)
        latents = rearrange(noisy, "1 c f h w -> f c h w") * (sigma**2 + 1).sqrt()
        given, one = conditions, control
        if frames is not None:
            given, one = {name: of_frames(c, frames) for name, c in given.items()}, on_frames(control, frames)
        given = {name: c.to(noisy.device).expand(len(latents), *c.shape[1:]) for name, c in given.items()}
        with torch.inference_mode():  # the host's weights may be inference tensors
            outputs = one.get_control(latents, sigma.expand(len(latents)), given, 1, {})
        return _as_diffusers(outputs or {}, noisy, [level * (layers + 1) + layers for level in range(levels)])

    try:
        yield residuals
    finally:
        control.cleanup()


def on_frames(control: ControlBase, frames: Sequence[int], made: dict[int, ControlBase] | None = None) -> ControlBase:
    """The controls of these frames of a clip alone; they share the network. Copies made during a run are ready to use.

    made: those of these frames so far, by the id of the whole one; the host puts only identical controls in one batch.
    Raises TavError for a control of another pack, whose images may be kept in another way.
    """
    made = {} if made is None else made
    if id(control) in made:
        return made[id(control)]
    if type(control) not in (ControlNet, ControlLora, T2IAdapter):
        raise TavError(
            f"A {type(control).__name__} cannot be used in windows of frames; use a ControlNet of ComfyUI's."
        )
    made[id(control)] = one = copy.copy(control)
    one.cond_hint_original = of_frames(one.cond_hint_original, frames)
    one.extra_concat_orig = [of_frames(each, frames) for each in one.extra_concat_orig]
    # safe: what the host itself resets when it is given other images: those of the video's size, an adapter's features
    one.cond_hint = one.extra_concat = one.control_input = None
    if one.previous_controlnet is not None:
        one.previous_controlnet = on_frames(one.previous_controlnet, frames, made)
    if clones := getattr(one, "multigpu_clones", None):  # not in 0.3.64
        one.multigpu_clones = {device: on_frames(clone, frames, made) for device, clone in clones.items()}
    return one


def of_frames(of_clip: Tensor, frames: Sequence[int]) -> Tensor:
    """What belongs to these frames; one for all frames stays as it is, and too few repeat, as they do in the host."""
    return of_clip if len(of_clip) == 1 else of_clip[[frame % len(of_clip) for frame in frames]]


def _as_diffusers(given: dict[str, list], noisy: Tensor, ends: list[int]) -> dict[str, Tensor | tuple | list]:
    """A control's output as diffusers' arguments; copies, since autograd cannot save inference tensors.

    The host adds `output` to the skips in order, and `middle` once; it adds `input`, from last to first, to its input
    blocks. diffusers accepts an adapter's features only at the ends of levels, which are the input blocks `ends`.
    """
    skips = [torch.zeros((), device=noisy.device) if r is None else r.to(noisy) for r in given.get("output", [])]
    middle = next((r.to(noisy) for r in given.get("middle", []) if r is not None), None)
    features = dict(enumerate(reversed(given.get("input", []))))
    if any(features.get(block) is not None for block in range(max(ends)) if block not in ends):
        raise TavError(
            "This control adds to UNet blocks that no T2I-Adapter for Stable Diffusion 1.x uses, which tuning does not "
            "support; tune without it."
        )
    adapted = [r.to(noisy).clone() for r in (features.get(block) for block in ends) if r is not None]
    return {
        "down_block_additional_residuals": tuple(r.clone() for r in skips) or None,
        "mid_block_additional_residual": None if middle is None else middle.clone(),
        "down_intrablock_additional_residuals": adapted or None,
    }


def settings_of(control: ControlBase | None) -> tuple[list, dict[str, Tensor]]:
    """What determines a control's effect: its settings, JSON-serialisable, and its images."""
    settings, images = [], {}
    for one in chain_of(control):
        # others have no network of their own: they use the MODEL's weights, or act outside its blocks
        if not isinstance(one, (ControlNet, T2IAdapter)) or isinstance(one, ControlLora):
            raise TavError(
                f"A {type(one).__name__} cannot be used in tuning; connect a full ControlNet or a T2I-Adapter, or tune "
                "without it."
            )
        # safe: what core's apply nodes and copy_to set on each control, with its image
        settings.append(
            [
                digest_of(_network(one)),
                one.strength,
                *one.timestep_percent_range,
                one.extra_args,
                str(one.strength_type),
            ]
        )
        for image in (one.cond_hint_original, *one.extra_concat_orig):  # and an inpainting ControlNet's masks
            images[f"hint.{len(images)}"] = image
    return settings, images


def recorded(control: ControlBase | None, names: Sequence[tuple[str | None, str | None]]) -> list[dict]:
    """Controls as `TunedFacts` stores them. names: (network, images) of each, used only if the graph names them all."""
    chain = list(chain_of(control))
    names = names if len(names) == len(chain) else [(None, None)] * len(chain)
    return [
        {
            "kind": "t2i-adapter" if isinstance(one, T2IAdapter) else "controlnet",
            "network": network,
            "pictures": images,
            "strength": one.strength,
            "start": one.timestep_percent_range[0],
            "end": one.timestep_percent_range[1],
        }
        for one, (network, images) in zip(chain, names, strict=True)
    ]


def chain_of(control: ControlBase | None) -> Iterator[ControlBase]:
    """A control and those before it, as core's apply nodes chain them."""
    while control is not None:
        yield control
        control = control.previous_controlnet


def check_controls(conditioning: list | None, samples: Tensor, patcher: ModelPatcher) -> None:
    """Raises TavError if control on a CONDITIONING does not fit a video of samples (f, 4, h, w), or its MODEL.

    The host would silently repeat images until there are enough, and crop them to the video's aspect ratio.
    """
    for _, options in conditioning or []:
        for control in chain_of(options.get("control")):
            # other packs' controls handle images in their own way
            if type(control) in (ControlNet, ControlLora, T2IAdapter):
                _check_images(control.cond_hint_original, samples)
                _check_family(control, patcher)


def _check_images(images: Tensor, samples: Tensor) -> None:
    count, _, height, width = images.shape
    frames, _, rows, columns = samples.shape
    if count not in (1, frames):
        raise TavError(
            f"Got {count} ControlNet images for {frames} frames; give Apply ControlNet one per frame, or one for all."
        )
    if abs(width * rows - height * columns) > max(rows, columns):  # more than rounding to whole latents
        raise TavError(
            f"The ControlNet images are {width}x{height}, but the video is {8 * columns}x{8 * rows}, with a different "
            "aspect ratio; load both with the same width and height."
        )


def _check_family(control: ControlNet | ControlLora | T2IAdapter, patcher: ModelPatcher) -> None:
    if isinstance(control, T2IAdapter):
        # safe: the downscaling that the host's loader chose: 8 for Stable Diffusion 1.x and 2.x, 16 for SDXL
        if control.t2i_model.unshuffle_amount != 8:
            raise TavError(
                "The network in Apply ControlNet is a T2I-Adapter for Stable Diffusion XL; choose one for Stable "
                "Diffusion 1.x or 2.x."
            )
        return
    weights = control.control_weights if isinstance(control, ControlLora) else control.control_model.state_dict()
    named = "The network in Apply ControlNet", "ControlNet"
    family = family_of_addition({name: tuple(tensor.shape) for name, tensor in weights.items()}, *named)
    check_addition(family, family_of(patcher), *named)


def _network(control: ControlNet | T2IAdapter) -> torch.nn.Module:
    return control.t2i_model if isinstance(control, T2IAdapter) else control.control_model
