"""Windows of frames on a MODEL: tav_core's, around every prediction of the host's guider.

The host has context windows of its own; they give every window the control images of the clip's beginning, and none
holds the clip's first frame.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from comfy.controlnet import ControlBase
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from einops import rearrange
from torch import Tensor

from ...tav_core.errors import TavError
from ...tav_core.windows import Windows, windowed
from .control import of_frames, on_frames
from .keep_checks import check_calls

WINDOWS = "tune_a_video_windows"
KINDS = (WrappersMP.OUTER_SAMPLE, WrappersMP.PREPARE_SAMPLING, WrappersMP.PREDICT_NOISE)
FRAMES_SEEN = "tune_a_video_frames_seen"
"""In transformer_options: the clip's frames that a call sees, if they are not all."""


def windows_of(patcher: ModelPatcher) -> Windows:
    """The MODEL's windows; one of the whole clip if it has none."""
    return patcher.get_attachment(WINDOWS) or Windows()


def with_windows(patcher: ModelPatcher, windows: Windows) -> ModelPatcher:
    """A clone that sees a video in windows, in tuning, inversion and with any sampler."""
    patcher = patcher.clone()
    patcher.set_attachments(WINDOWS, windows)
    for kind, around in zip(KINDS, (_around_sampling, _around_preparation, _around_prediction), strict=True):
        patcher.remove_wrappers_with_key(kind, WINDOWS)
        patcher.add_wrapper_with_key(kind, WINDOWS, around(windows))
        # safe: the host calls wrappers in the order of their keys; what an edit keeps is kept window by window
        others = {key: given for key, given in patcher.wrappers[kind].items() if key != WINDOWS}
        patcher.wrappers[kind] = {WINDOWS: patcher.wrappers[kind][WINDOWS], **others}
    return patcher


def undivided(patcher: ModelPatcher) -> ModelPatcher:
    """Lets a MODEL with windows predict what it is given in one call, in place; memory stays that of a window."""
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.PREDICT_NOISE):
        patcher.remove_wrappers_with_key(kind, WINDOWS)
    return patcher


def conditions_on(guider, frames: Sequence[int], num_frames: int) -> dict[str, list]:
    """A guider's conditions for some of a clip's frames."""
    if len(frames) == num_frames:
        return guider.conds
    made: dict[int, ControlBase] = {}
    return {name: [_of_window(one, frames, made) for one in given] for name, given in guider.conds.items()}


@contextmanager
def conditioned(guider, conds: dict[str, list]) -> Iterator[None]:
    """In this context, these are the guider's conditions."""
    whole, guider.conds = guider.conds, conds
    try:
        yield
    finally:
        guider.conds = whole


def _around_sampling(windows: Windows) -> Callable:
    def sample(executor, noise, latent_image, sampler, *args, **kwargs):
        guider = executor.class_obj  # safe: the CFGGuider whose sampling is wrapped
        check_calls(guider.model_options, "Video Windows")
        name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
        if "cfg_pp" in name:  # they look into each call, and would see the last window alone
            name = name.removeprefix("sample_")
            raise TavError(f"Video Windows does not work with the sampler {name}; choose one without cfg_pp.")
        windows.check(len(noise))
        guider.tune_a_video_windows = windowed(_Clip(guider, len(noise)), windows)
        try:
            return executor(noise, latent_image, sampler, *args, **kwargs)
        finally:
            del guider.tune_a_video_windows

    return sample


def _around_preparation(windows: Windows) -> Callable:
    """The host reserves memory for one call, so for one window."""

    def prepare(executor, model, noise_shape, conds, *args, **kwargs):
        frames, *rest = noise_shape
        return executor(model, [min(frames, windows.length or frames), *rest], conds, *args, **kwargs)

    return prepare


def _around_prediction(windows: Windows) -> Callable:
    def predict(executor, x, timestep, model_options={}, seed=None):
        guider = executor.class_obj
        if not windows.divides(len(x)) or not hasattr(guider, "tune_a_video_windows"):
            return executor(x, timestep, model_options, seed)
        guider.tune_a_video_call = lambda frames, part: executor(
            part, of_frames(timestep, frames), _seeing(frames, model_options), seed
        )
        try:
            denoised = guider.tune_a_video_windows(rearrange(x, "f c h w -> 1 c f h w"), 0)
        finally:
            del guider.tune_a_video_call
        return rearrange(denoised, "1 c f h w -> f c h w")

    return predict


def _seeing(frames: Sequence[int], model_options: dict) -> dict:
    options = model_options.get("transformer_options", {})
    return {**model_options, "transformer_options": {**options, FRAMES_SEEN: tuple(frames)}}


class _Clip:
    """A guider's prediction as `windowed` takes one: (1, c, f, h, w) at the guider's own noise level."""

    def __init__(self, guider, num_frames: int):
        self.guider, self.num_frames = guider, num_frames

    def on_frames(self, frames: Sequence[int]) -> Callable[[Tensor, int], Tensor]:
        guider = self.guider
        conds = conditions_on(guider, frames, self.num_frames)

        def predict(latents: Tensor, _timestep: int) -> Tensor:
            with conditioned(guider, conds):
                denoised = guider.tune_a_video_call(frames, rearrange(latents, "1 c f h w -> f c h w"))
            return rearrange(denoised, "f c h w -> 1 c f h w")

        return predict


def _of_window(cond: dict, frames: Sequence[int], made: dict[int, ControlBase]) -> dict:
    """A condition of the host's for these frames alone: its prompts, masks and control images."""
    cond = dict(cond)
    if cond.get("control") is not None:
        cond["control"] = on_frames(cond["control"], frames, made)
    if cond.get("mask") is not None:
        cond["mask"] = of_frames(cond["mask"], frames)
    cond["model_conds"] = {name: _sliced(given, frames) for name, given in cond.get("model_conds", {}).items()}
    return cond


def _sliced(given, frames: Sequence[int]):
    tensor = getattr(given, "cond", None)
    if not isinstance(tensor, Tensor) or tensor.ndim == 0:
        return given
    return given._copy_with(of_frames(tensor, frames))  # safe: as the host's own context windows do
