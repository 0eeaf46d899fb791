"""The state of a tuning run, in a file from which it goes on bit for bit where it was."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import TavError
from .files import atomic_path
from .inflate import InflatedUNet
from .tuned import fingerprint

FORMAT = "tune-a-video/run/1"
FREE = ("num_steps", "checkpoint_every", "gradient_checkpointing")
"""Settings that may change when a run goes on: they do not change what a step computes."""


def run_fingerprint(unet: InflatedUNet, latents, prompt_embeds: Tensor, config) -> str:
    """Names a run by all that decides its result: base model, inflation, clip, sentence, settings; sha256, hex."""
    settings = {name: value for name, value in asdict(config).items() if name not in FREE}
    inflation = [unet.attention, unet.group_norm, unet.temporal]
    digest = hashlib.sha256(json.dumps([fingerprint(unet), inflation, settings]).encode())
    for tensor in (latents,) if torch.is_tensor(latents) else latents:
        digest.update(_bytes(tensor))
    digest.update(_bytes(prompt_embeds))
    return digest.hexdigest()


class TuneState:
    """Everything that a step changes. Between two steps, and only there, it may be saved."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        generator: torch.Generator,
    ):
        self.parameters, self.optimizer, self.scaler, self.generator = parameters, optimizer, scaler, generator
        self.step, self.losses, self.grad_norms = 0, [], []
        self._generator_state = generator.get_state()
        self._saved_step, self._updating = 0, False

    @contextmanager
    def update(self, loss: float, grad_norm: float) -> Iterator[None]:
        """The part of a step that changes weights; after it the step is done."""
        self._updating = True
        yield
        self.step += 1
        self.losses.append(loss)
        self.grad_norms.append(grad_norm)
        self._generator_state = self.generator.get_state()
        self._updating = False

    @contextmanager
    def kept_in(self, path: str | os.PathLike | None, run: str | None) -> Iterator[None]:
        """Saves what is not saved yet when the block ends, well or with an exception."""
        try:
            yield
        finally:
            if path is not None and self.step > self._saved_step and not self._updating:
                self.save(path, run)

    def save(self, path: str | os.PathLike, run: str) -> None:
        """Writes the state, whole or not at all; `run` is its `run_fingerprint`."""
        tensors = {"generator": self._generator_state}
        for name, parameter in self.parameters.items():
            tensors[f"parameter.{name}"] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
        facts = {
            "run": run,
            "step": self.step,
            "losses": self.losses,
            "grad_norms": self.grad_norms,
            "scaler": self.scaler.state_dict(),
        }
        metadata = {"format": FORMAT, "facts": json.dumps(facts)}
        with atomic_path(path) as temporary:
            save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, temporary, metadata)
        self._saved_step = self.step

    def resume(self, path: str | os.PathLike, run: str) -> None:
        """Takes up the state in `path`, if there is one; raises TavError where it is of another run, or unreadable."""
        if not os.path.exists(path):
            return
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise TavError(f"The tuning checkpoint {path} is damaged ({error}); delete it to start again.") from error
        facts = json.loads(metadata.get("facts", "{}"))
        if metadata.get("format") != FORMAT or facts["run"] != run:
            raise TavError(
                f"The tuning checkpoint {path} is of another run: another clip, sentence, model or other settings. "
                "Go on with those, give another path, or delete it."
            )
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors.pop(f"parameter.{name}"))
            state = {key: tensors.pop(f"{key}.{name}", None) for key in ("step", "exp_avg", "exp_avg_sq")}
            if state["step"] is not None:
                self.optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
        self.generator.set_state(tensors["generator"])
        self._generator_state = tensors["generator"]
        if facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        self.step, self.losses, self.grad_norms = facts["step"], facts["losses"], facts["grad_norms"]
        self._saved_step = self.step


def _bytes(tensor: Tensor) -> bytes:
    return str(tuple(tensor.shape)).encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes()
