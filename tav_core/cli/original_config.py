"""Reads the original implementation's YAML configs as they are, and translates them to our own settings."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..checkpoints.original import TRAIN
from ..errors import TavError, brief, shown
from ..jobs.edit_config import EditConfig
from ..jobs.selection import Selection
from ..tune import TuneConfig

TRAINED = {"attn1.to_q", "attn2.to_q", "attn_temp"}
# The original's defaults for settings that its config leaves out.
TOP = {
    "pretrained_model_path": None,
    "output_dir": None,
    "train_data": {},
    "validation_data": {},
    "trainable_modules": sorted(TRAINED),
    "max_train_steps": 500,
    "learning_rate": 3e-5,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_weight_decay": 1e-2,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "lr_scheduler": "constant",
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": True,
    "mixed_precision": "fp16",
    "seed": 0,
}
VALIDATION = {
    "prompts": None,
    "video_length": None,
    "width": None,
    "height": None,
    "num_inference_steps": 50,
    "guidance_scale": 7.5,
    "negative_prompt": "",
    "eta": 0.0,
    "use_inv_latent": False,
    "num_inv_steps": 50,
}
WITHOUT_MEANING = {
    "checkpointing_steps",  # a run keeps its own resume file
    "resume_from_checkpoint",  # and resumes by itself
    "validation_steps",  # the prompts are sampled once, at the end
    "train_batch_size",  # the data set is one video
    "scale_lr",  # by that batch size
    "lr_warmup_steps",  # which a constant schedule does not have
    "use_8bit_adam",
    "enable_xformers_memory_efficient_attention",
}

SAME_IN_BOTH = (
    "learning_rate",
    "adam_beta1",
    "adam_beta2",
    "adam_weight_decay",
    "adam_epsilon",
    "max_grad_norm",
    "gradient_checkpointing",
)
"""What has the same name in `TuneConfig`."""
SWITCHES = ("gradient_checkpointing", "use_inv_latent")
TEXTS = ("pretrained_model_path", "output_dir", "mixed_precision", "video_path", "prompt", "negative_prompt")
FRACTIONS = (*SAME_IN_BOTH[:-1], "guidance_scale", "eta")


@dataclass(frozen=True)
class OriginalConfig:
    """The settings in a config. edited: the frames of the validation videos. ignored: keys with no meaning here."""

    checkpoint: Path
    output: Path
    tuned: Selection
    edited: Selection
    prompt: str
    prompts: list[str]
    tune: TuneConfig
    edit: EditConfig
    ignored: list[str]


def read_config(
    path: str | os.PathLike, *, checkpoint: Path | None = None, output: Path | None = None
) -> OriginalConfig:
    """Reads a YAML config of the original; `checkpoint` and `output` override the paths in it.

    Inputs are searched for in the working directory, then in the folder of the YAML, then in its parent. As in the
    original, frames are stretched to the size. Raises TavError for unknown keys and invalid values.
    """
    path = Path(path)
    top = _read(path)
    ignored = sorted(WITHOUT_MEANING & top.keys())
    top = _with_defaults({name: value for name, value in top.items() if name not in ignored}, TOP, path, "")
    train = _with_defaults(top["train_data"], TRAIN, path, "train_data.")
    validation = _with_defaults(top["validation_data"], VALIDATION, path, "validation_data.")
    _refuse_other_methods(top, path)
    prompts = _required(validation, "prompts", path, "validation_data.")
    if not (isinstance(prompts, list) and prompts and all(isinstance(p, str) and p.strip() for p in prompts)):
        raise TavError(f"{path}: validation_data.prompts must be a list of prompts, got {shown(prompts)}.")
    try:
        tuned = Selection(
            clip=_found(_required(train, "video_path", path, "train_data."), path),
            frames=train["n_sample_frames"],
            size=(train["width"], train["height"]),
            start=train["sample_start_idx"],
            stride=train["sample_frame_rate"],
            fit="stretch",
            by_time=False,
        )
        edited = Selection(
            clip=tuned.clip,
            frames=validation["video_length"] or tuned.frames,
            size=(validation["width"] or tuned.size[0], validation["height"] or tuned.size[1]),
            start=tuned.start,
            stride=tuned.stride,
            fit=tuned.fit,
            by_time=tuned.by_time,
        )
        tune = TuneConfig(
            num_steps=top["max_train_steps"],
            **{name: top[name] for name in SAME_IN_BOTH},
            seed=top["seed"] or 0,
            mixed_precision=top["mixed_precision"] or "no",
        )
        edit = EditConfig(
            num_steps=validation["num_inference_steps"],
            inversion_steps=validation["num_inv_steps"],
            guidance_scale=validation["guidance_scale"],
            negative_prompt=validation["negative_prompt"] or "",
            eta=validation["eta"],
            seed=top["seed"] or 0,
            from_inversion=validation["use_inv_latent"],
        )
    except TavError as error:
        raise TavError(f"{path}: {error}") from error
    return OriginalConfig(
        checkpoint=checkpoint or _found(_required(top, "pretrained_model_path", path, ""), path),
        output=output or Path(_required(top, "output_dir", path, "")),
        tuned=tuned,
        edited=edited,
        prompt=_required(train, "prompt", path, "train_data."),
        prompts=prompts,
        tune=tune,
        edit=edit,
        ignored=ignored,
    )


def _read(path: Path) -> dict:
    if not path.is_file():
        raise TavError(f"There is no config {path}; give a YAML config of the original.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
        IndexError,
    ) as error:  # the last is PyYAML's own, of odd numbers
        raise TavError(f"{path} cannot be read as YAML ({brief(error)}).") from error
    if not isinstance(content, dict):
        raise TavError(f"{path} holds no settings; give a YAML config of the original.")
    return content


def _with_defaults(given: Mapping, defaults: Mapping, path: Path, section: str) -> dict:
    """The settings of a table, each of the type that its name asks for."""
    if not isinstance(given, dict):
        raise TavError(f"{path}: {section.rstrip('.')} must be a table of settings, got {shown(given)}.")
    if unknown := [
        f"{section}{name if isinstance(name, str) else shown(name)}" for name in given if name not in defaults
    ]:
        raise TavError(f"{path} has unknown settings: {brief(', '.join(unknown))}; correct or remove them.")
    typed = {name: _typed(name, value, f"{path}: {section}{name}") for name, value in given.items()}
    return {**defaults, **{name: value for name, value in typed.items() if value is not None}}


def _typed(name: str, value: object, where: str) -> object:
    """A setting as its own type; YAML takes 3e-5 for a text, and no for False."""
    if value is None or name in ("train_data", "validation_data", "prompts", "trainable_modules", "lr_scheduler"):
        return value
    if name in SWITCHES:
        if not isinstance(value, bool):
            raise TavError(f"{where} must be true or false, got {shown(value)}.")
        return value
    if name in TEXTS:
        if value is False and name == "mixed_precision":
            return "no"
        if not isinstance(value, str):
            raise TavError(f"{where} must be a text, got {shown(value)}; put it in quotes.")
        return value
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise TavError(f"{where} must be a number, got {shown(value)}.")
    if name in FRACTIONS:
        return number
    if number != int(number):
        raise TavError(f"{where} must be a whole number, got {shown(value)}.")
    return value if isinstance(value, int) else int(number)


def _required(settings: Mapping, name: str, path: Path, section: str):
    if settings[name] is None:
        raise TavError(f"{path} does not set {section}{name}, which is required.")
    return settings[name]


def _refuse_other_methods(top: Mapping, path: Path) -> None:
    """Raises TavError for settings that would change the method, instead of ignoring them."""
    modules = top["trainable_modules"]
    texts = isinstance(modules, (list, tuple)) and all(isinstance(module, str) for module in modules)
    if not texts or set(modules) != TRAINED:
        raise TavError(
            f"{path}: trainable_modules are {shown(modules)}, but only the paper's can be tuned: "
            f"{', '.join(sorted(TRAINED))}."
        )
    for name, only in (("lr_scheduler", "constant"), ("gradient_accumulation_steps", 1)):
        if top[name] != only:
            raise TavError(f"{path}: {name} is {shown(top[name])}, but only {only!r} is supported.")


def _found(name: str, config: Path) -> Path:
    """The path of an input named in a config; if there is no such file, the name itself, for the error message."""
    folder = config.absolute().parent
    candidates = [Path(name), folder / name, folder.parent / name]
    return next((path for path in candidates if path.exists()), Path(name))
