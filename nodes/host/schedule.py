"""A MODEL's noise schedule, as diffusers' schedulers take it."""

import torch
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import EPS, V_PREDICTION
from torch import Tensor

from ...tav_core.errors import TavError, need

KINDS = {EPS: "epsilon", V_PREDICTION: "v_prediction"}


def check_steps(num_steps: int) -> None:
    """Whether DDIM in so many steps begins near full noise; few steps may begin earlier, for a quick try.

    The steps are 1000 // num_steps timesteps apart, so 500 begin at timestep 999, and 501 at 501.
    """
    need(1 <= num_steps <= 999, "steps", num_steps, "from 1 to 999")
    stride = 1000 // num_steps
    if num_steps >= 10 and (num_steps - 1) * stride < 900:
        raise TavError(
            f"{num_steps} steps of DDIM begin at timestep {(num_steps - 1) * stride + 1} of 1000, far from full noise; "
            f"take {1000 // (stride + 1)} or {min(1000 // stride, 999)}."
        )


def sigmas_of(patcher: ModelPatcher) -> Tensor:
    """The noise level of each of the 1000 timesteps, as the host counts it: sqrt(1 - a) / sqrt(a)."""
    sampling = patcher.get_model_object("model_sampling")  # also where a node put another in its place
    sigmas = getattr(sampling, "sigmas", None)
    if sigmas is None or len(sigmas) != 1000:
        raise TavError(
            f"DDIM needs a MODEL with 1000 discrete noise levels, and this one samples by {_named(sampling)}; take out "
            "the node that changes its sampling."
        )
    return sigmas


def schedule_of(patcher: ModelPatcher) -> dict:
    """The arguments of a diffusers scheduler for this MODEL; what it predicts is left to `prediction_type_of`."""
    sigmas = sigmas_of(patcher).double().cpu()
    alphas_cumprod = 1 / (sigmas**2 + 1)
    betas = 1 - alphas_cumprod / torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    return {"num_train_timesteps": len(sigmas), "trained_betas": betas.tolist(), "clip_sample": False}


def prediction_type_of(patcher: ModelPatcher) -> str:
    sampling = patcher.get_model_object("model_sampling")
    # safe: the host mixes what a model predicts into the class of its model_sampling; the nearest of them decides
    nearest = next((kind for kind in type(sampling).__mro__ if "calculate_denoised" in vars(kind)), None)
    if nearest not in KINDS:
        raise TavError(
            f"Tuning needs a MODEL that predicts epsilon or v_prediction, and this one samples by {_named(sampling)}; "
            "take out the node that changes its sampling."
        )
    return KINDS[nearest]


def _named(sampling: object) -> str:
    return " and ".join(kind.__name__ for kind in type(sampling).__bases__)
