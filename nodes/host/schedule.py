"""A MODEL's noise schedule, in the form diffusers' schedulers take."""

import torch
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import EPS, V_PREDICTION
from torch import Tensor

from ...tav_core.errors import TavError

KINDS = {EPS: "epsilon", V_PREDICTION: "v_prediction"}


def sigmas_of(patcher: ModelPatcher) -> Tensor:
    """The noise level of each of the 1000 timesteps, as the host defines it: sqrt(1 - a) / sqrt(a)."""
    sampling = patcher.get_model_object("model_sampling")  # nodes may have replaced it
    sigmas = getattr(sampling, "sigmas", None)
    if sigmas is None or len(sigmas) != 1000:
        raise TavError(
            f"DDIM needs a MODEL with 1000 discrete noise levels, but this one samples with {_named(sampling)}; remove "
            "the node that changes its sampling."
        )
    return sigmas


def schedule_of(patcher: ModelPatcher) -> dict:
    """The arguments of a diffusers scheduler for this MODEL, except prediction_type."""
    sigmas = sigmas_of(patcher).double().cpu()
    alphas_cumprod = 1 / (sigmas**2 + 1)
    betas = 1 - alphas_cumprod / torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    return {"num_train_timesteps": len(sigmas), "trained_betas": betas.tolist(), "clip_sample": False}


def prediction_type_of(patcher: ModelPatcher) -> str:
    sampling = patcher.get_model_object("model_sampling")
    # safe: the host mixes the prediction type into model_sampling's class; the first base defining it counts
    nearest = next((kind for kind in type(sampling).__mro__ if "calculate_denoised" in vars(kind)), None)
    if nearest not in KINDS:
        raise TavError(
            f"Tuning needs a MODEL that predicts epsilon or v_prediction, but this one samples with "
            f"{_named(sampling)}; remove the node that changes its sampling."
        )
    return KINDS[nearest]


def _named(sampling: object) -> str:
    return " and ".join(kind.__name__ for kind in type(sampling).__bases__)
