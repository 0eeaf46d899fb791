"""Tuned weights out of what the original Tune-A-Video saved, with its base or without."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from diffusers import UNet2DConditionModel
from torch import Tensor

from ..checkpoints.checkpoint import load_checkpoint
from ..checkpoints.networks import fill, read_config, read_weights
from ..checkpoints.original import TRAIN, check_temporal, image_config, is_original, is_original_config, unet_folder
from ..errors import TavError
from ..families import family_of_config
from ..inflate import InflatedUNet, inflate
from ..inflation import difference_names
from ..tuned import TunedWeights
from ..version import __version__

FP16 = {"rtol": 2.0**-10, "atol": 2.0**-24}  # how far two roundings to fp16 lie apart


def load_weights(path: str | os.PathLike, checkpoint: str | os.PathLike | None = None) -> TunedWeights:
    """Loads tuned weights from a file of ours, or from a result of the original against the checkpoint it was tuned on.

    Without a checkpoint, or with the result itself for one, they go onto the result's own 2-D part.
    """
    if not is_original(path):
        return TunedWeights.load(path)
    if checkpoint is None or unet_folder(checkpoint).resolve() == unet_folder(path).resolve():
        return original_weights(path, checkpoint=Path(path).name)
    return original_weights(path, load_checkpoint(checkpoint).unet, checkpoint=Path(checkpoint).name)


def original_weights(
    path: str | os.PathLike, base: UNet2DConditionModel | None = None, **facts: object
) -> TunedWeights:
    """Reads a result of the original, the whole folder or its unet/ alone, as weights tuned on `base`.

    base: what it was tuned on, in any precision. Without it the differences of the query projections are zero, and
        the weights go onto the 2-D part of the same folder alone, which `load_checkpoint` opens.
    facts: what else to tell of them, beside what the original wrote next to unet/, where that is there.
    Raises TavError for another folder, another base than it was tuned on, and a network that is not the original's.
    """
    folder = unet_folder(path)
    name = f"{folder.parent.name}/{folder.name}"
    config = _config(folder, name)
    family = family_of_config(config, name)
    unet = _network(config, read_weights(folder), name)
    if base is None:
        before = {key: unet.state_dict()[key].clone() for key in difference_names(unet.trainable_parameters())}
    else:
        before = base.state_dict()
        _check_base(unet, before, name)
    weights = TunedWeights.from_unet(
        unet,
        base=before,
        family=family,
        source=name,
        **_settings(folder.parent) | _prediction(folder.parent) | facts,
        version=__version__,
    )
    _check_tuned(weights.tensors, base, name)
    return weights


def _config(folder: Path, name: str) -> dict:
    if not folder.is_dir():
        raise TavError(f"There is no folder {folder}: give the one that the original's training wrote, or its unet/.")
    config = read_config(folder)
    if not is_original_config(config):
        family_of_config(config, name)  # says what another network is
        raise TavError(
            f"{name} is an image model, and no result of the original Tune-A-Video: give the folder that its training "
            "wrote, or the unet/ in it."
        )
    return image_config(config)


def _network(config: Mapping, tensors: dict[str, Tensor], name: str) -> InflatedUNet:
    check_temporal(tensors, name)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    unet = fill(inflate(unet), tensors, name)
    for key, tensor in unet.state_dict().items():
        if ".norm_temp." in key and not (tensor == key.endswith("weight")).all():
            raise TavError(
                f"{name} was tuned in another way than Tune-A-Video's: {key} is not 1 or 0 as it began; tune the clip "
                "anew."
            )
    return unet


def _check_base(unet: InflatedUNet, base: Mapping[str, Tensor], name: str) -> None:
    """Raises TavError where what tuning leaves alone is not the base's, but for rounding to fp16."""
    trained, all_tensors = unet.trainable_parameters(), unet.state_dict()
    frozen = {key: tensor for key, tensor in all_tensors.items() if key not in trained and ".norm_temp." not in key}
    others = [key for key, tensor in frozen.items() if key not in base or not _same(tensor, base[key])]
    if others:
        raise TavError(
            f"{name} was tuned on another base: {len(others)} of the {len(frozen)} tensors that tuning leaves alone "
            f"differ, {others[0]} first; give the checkpoint that it was tuned on."
        )


def _same(tensor: Tensor, other: Tensor) -> bool:
    return tensor.shape == other.shape and torch.allclose(tensor.float(), other.float().cpu(), **FP16)


def _check_tuned(tensors: Mapping[str, Tensor], base: UNet2DConditionModel | None, name: str) -> None:
    if broken := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise TavError(f"{name} holds NaN or infinite values, in {broken[0]} for one; tune the clip anew.")
    if base is not None and not any(tensors[key].any() for key in difference_names(tensors)):
        raise TavError(
            f"{name} has the query projections of the base that was given, which must then be the tuned network "
            "itself; give the checkpoint that it was tuned on."
        )


def _settings(folder: Path) -> dict:
    """The facts of the config.yaml that the original writes beside unet/; none where it is not there, or another's."""
    try:
        said = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        given = said["train_data"]
        clip = TRAIN | given
        return {
            "prompt": str(given["prompt"]),
            "clip": Path(given["video_path"]).name,
            "frames": int(clip["n_sample_frames"]),
            "size": [int(clip["width"]), int(clip["height"])],
            "start": int(clip["sample_start_idx"]),
            "stride": int(clip["sample_frame_rate"]),
            "fit": "stretch",
            "steps": int(said["max_train_steps"]),
        }
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return {}


def _prediction(folder: Path) -> dict:
    """What the network predicts, which the scheduler beside unet/ tells."""
    try:
        config = read_config(folder / "scheduler", "scheduler_config.json")
    except TavError:
        return {}
    return {"prediction_type": config.get("prediction_type", "epsilon")}
