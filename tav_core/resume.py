"""The state of a tuning run, in a file from which it goes on bit for bit where it was."""

import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

import torch
from diffusers import SchedulerMixin
from torch import Tensor, nn

from .errors import TavError
from .files import read_tensors, write_tensors
from .inflate import InflatedUNet
from .tuned import fingerprint

FORMAT = "tune-a-video/run/1"
FREE = ("num_steps", "checkpoint_every", "gradient_checkpointing")
"""Settings that may change when a run goes on: none changes what a step computes, but for rounding."""


def run_fingerprint(unet: InflatedUNet, latents, prompt_embeds: Tensor, scheduler: SchedulerMixin, config) -> str:
    """Names a run by what decides its result: base model, inflation, clip, sentence, schedule, settings, device.

    The base is the network as it was before it was first tuned, so a run that stopped may go on in the same process.
    """
    given = (latents,) if torch.is_tensor(latents) else latents
    decisive = [
        fingerprint(unet),
        [unet.attention, unet.group_norm, unet.temporal, str(unet.unet.conv_in.weight.dtype), given[0].device.type],
        {name: value for name, value in scheduler.config.items() if not name.startswith("_")},
        {name: value for name, value in asdict(config).items() if name not in FREE},
    ]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode())
    for tensor in (*given, prompt_embeds):
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
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
        """The part of a step that changes weights; after it the step is done. Ctrl-C waits until then."""
        self._updating = True
        with _interrupts_wait():
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
            tensors[f"parameter.{name}"] = parameter
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
        facts = {
            "run": run,
            "step": self.step,
            "losses": self.losses,
            "grad_norms": self.grad_norms,
            "scaler": self.scaler.state_dict(),
        }
        write_tensors(path, tensors, FORMAT, facts)
        self._saved_step = self.step

    def resume(self, path: str | os.PathLike, run: str) -> None:
        """Takes up the state in `path`, if there is one; raises TavError where it is of another run, or unreadable."""
        if not os.path.exists(path):
            return
        try:
            tensors, facts = read_tensors(path, FORMAT)
        except TavError as error:
            raise TavError(f"{error} Delete this tuning checkpoint to start again.") from error
        if facts["run"] != run:
            raise TavError(
                f"The tuning checkpoint {path} is of another run: another clip, sentence, model, device or other "
                "settings. Go on with those, give another path, or delete it."
            )
        moments = {}
        for number, (name, parameter) in enumerate(self.parameters.items()):
            parameter.data.copy_(tensors[f"parameter.{name}"])
            if f"step.{name}" in tensors:
                # copies, for what is read may be a view of the file, which the next save replaces
                moments[number] = {key: tensors[f"{key}.{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self._generator_state = tensors["generator"].clone()
        self.generator.set_state(self._generator_state)
        if facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        self.step, self.losses, self.grad_norms = facts["step"], facts["losses"], facts["grad_norms"]
        self._saved_step = self.step


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Holds Ctrl-C back for a moment that must not be cut in two; only the main thread ever gets one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held, handler = [], signal.signal(signal.SIGINT, lambda *_: held.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
    if held:
        signal.raise_signal(signal.SIGINT)
