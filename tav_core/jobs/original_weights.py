"""Tuned weights from the output folder of the original Tune-A-Video, with or without its base checkpoint."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from diffusers import UNet2DConditionModel
from torch import Tensor

from ..checkpoints.checkpoint import load_checkpoint
from ..checkpoints.configs import read_config, read_text
from ..checkpoints.networks import empty_network, fill, read_weights
from ..checkpoints.original import TRAIN, check_temporal, image_config, is_original, is_original_config, unet_folder
from ..errors import TavError
from ..families import family_of_config
from ..inflate import InflatedUNet, inflate
from ..inflation import difference_names
from ..tuned import TunedWeights
from ..version import __version__

FP16 = {"rtol": 2.0**-10, "atol": 2.0**-24}  # how far apart two roundings to fp16 can be


def load_weights(path: str | os.PathLike, checkpoint: str | os.PathLike | None = None) -> TunedWeights:
    """Loads tuned weights from a file of ours, or from the original's output folder and the checkpoint it was tuned on.

    Without a checkpoint, or with that same folder as the checkpoint, they are for the folder's own 2-D network.
    """
    if not is_original(path):
        return TunedWeights.load(path)
    if checkpoint is None or unet_folder(checkpoint).resolve() == unet_folder(path).resolve():
        return original_weights(path, checkpoint=Path(path).name)
    return original_weights(path, load_checkpoint(checkpoint).unet, checkpoint=Path(checkpoint).name)


def original_weights(
    path: str | os.PathLike, base: UNet2DConditionModel | None = None, **metadata: object
) -> TunedWeights:
    """Reads the original's output, the whole folder or only its unet/, as weights tuned on `base`.

    base: the UNet it was tuned on, in any precision. Without it, the differences of the query projections are zero,
        and the weights fit only the 2-D network of the same folder, which `load_checkpoint` opens.
    metadata: more fields of TunedFacts, in addition to those from the config and scheduler next to unet/, if present.
    Raises TavError for any other folder or network, and for a base it was not tuned on.
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
        **_settings(folder.parent) | _prediction_type(folder.parent) | metadata,
        version=__version__,
    )
    _check_tuned(weights.tensors, base, name)
    return weights


def _config(folder: Path, name: str) -> dict:
    if not folder.is_dir():
        raise TavError(f"There is no folder {folder}; give the output folder of the original's training, or its unet/.")
    config = read_config(folder)
    if not is_original_config(config):
        family_of_config(config, name)  # raises for other kinds of network, and names them
        raise TavError(
            f"{name} is an image model, not the output of the original Tune-A-Video; give the output folder of its "
            "training, or the unet/ in it."
        )
    return image_config(config)


def _network(config: Mapping, tensors: dict[str, Tensor], name: str) -> InflatedUNet:
    check_temporal(tensors, name)
    unet = fill(inflate(empty_network(UNet2DConditionModel, config, name)), tensors, name)
    for key, tensor in unet.state_dict().items():
        if ".norm_temp." in key and not (tensor == key.endswith("weight")).all():
            raise TavError(
                f"{name} was not tuned as in Tune-A-Video: {key} is not at its initial value; tune the clip again."
            )
    return unet


def _check_base(unet: InflatedUNet, base: Mapping[str, Tensor], name: str) -> None:
    """Raises TavError unless the tensors that are not trained equal the base's, up to rounding to fp16."""
    trained, all_tensors = unet.trainable_parameters(), unet.state_dict()
    frozen = {key: tensor for key, tensor in all_tensors.items() if key not in trained and ".norm_temp." not in key}
    others = [key for key, tensor in frozen.items() if key not in base or not _same(tensor, base[key])]
    if others:
        raise TavError(
            f"{name} was tuned on another base: {len(others)} of the {len(frozen)} tensors that are not trained "
            f"differ, such as {others[0]}; give the checkpoint it was tuned on."
        )


def _same(tensor: Tensor, other: Tensor) -> bool:
    return tensor.shape == other.shape and torch.allclose(tensor.float(), other.float().cpu(), **FP16)


def _check_tuned(tensors: Mapping[str, Tensor], base: UNet2DConditionModel | None, name: str) -> None:
    if broken := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise TavError(f"{name} holds NaN or infinite values, for example in {broken[0]}; tune the clip again.")
    if base is not None and not any(tensors[key].any() for key in difference_names(tensors)):
        raise TavError(
            f"{name} and the given base have the same query projections, so the base seems to be the tuned network; "
            "give the checkpoint it was tuned on."
        )


def _settings(folder: Path) -> dict:
    """Metadata from the original's config.yaml next to unet/; empty if it is missing or of another program."""
    try:
        config = yaml.safe_load(read_text(folder / "config.yaml"))
        given = config["train_data"]
        clip = TRAIN | given
        if not isinstance(given["prompt"], str):
            return {}
        return {
            "prompt": given["prompt"],
            "clip": Path(given["video_path"]).name,
            "frames": int(clip["n_sample_frames"]),
            "size": [int(clip["width"]), int(clip["height"])],
            "start": int(clip["sample_start_idx"]),
            "stride": int(clip["sample_frame_rate"]),
            "fit": "stretch",
            "steps": int(config["max_train_steps"]),
        }
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return {}


def _prediction_type(folder: Path) -> dict:
    """The prediction type in the config of the scheduler next to unet/; empty if there is none."""
    try:
        config = read_config(folder / "scheduler", "scheduler_config.json")
    except TavError:
        return {}
    return {"prediction_type": config.get("prediction_type", "epsilon")}
