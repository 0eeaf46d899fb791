"""The state of a tuning run, and the file from which it resumes bit for bit."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .errors import TavError
from .files import read_metadata, read_tensors, write_tensors
from .watchdog import Watchdog

FORMAT = "tune-a-video/run/1"


def steps_kept_in(path: str | os.PathLike) -> int:
    """The steps done by the run that is saved in a file; 0 if there is no file. Raises TavError for any other file."""
    return _checked(read_metadata(path, FORMAT), path)["step"] if os.path.exists(path) else 0


def damage_in(path: str | os.PathLike) -> str | None:
    """What is wrong with a run's file, data included, so that it has to start again; None if nothing is."""
    if not os.path.exists(path):
        return None
    try:
        tensors, metadata = read_tensors(path, FORMAT)
        _checked(metadata, path)
    except TavError as error:
        return str(error)
    return None if "generator" in tensors else f"{path} is damaged: it has no generator's state."


def _checked(metadata: dict, path: str | os.PathLike) -> dict:
    """The metadata of a run's file; raises TavError where they are not what was written."""
    kinds = {"run": (str, type(None)), "step": int, "losses": list, "grad_norms": list, "scaler": dict}
    for name, kind in kinds.items():
        if not isinstance(metadata.get(name, ...), kind) or isinstance(metadata[name], bool):
            raise TavError(f"{path} is damaged: its {name} is missing or of another type.")
    numbers = [*metadata["losses"], *metadata["grad_norms"]]
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise TavError(f"{path} is damaged: its losses are not numbers.")
    if metadata["step"] < 0 or len(metadata["losses"]) != metadata["step"]:
        raise TavError(f"{path} is damaged: it has {metadata['step']} steps, but {len(metadata['losses'])} losses.")
    return metadata


def losses_kept_in(path: str | os.PathLike) -> list[float]:
    """The loss of each of those steps."""
    return list(_checked(read_metadata(path, FORMAT), path)["losses"]) if os.path.exists(path) else []


class TuneState:
    """Everything that a step changes; saved only between steps.

    A context manager: it resumes from the file on entry, if there is one, and saves on exit.
    keep_in: the file, if any, saved every `keep_every` steps and on exit. run: the run's fingerprint.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        generator: torch.Generator,
        *,
        keep_in: str | os.PathLike | None = None,
        keep_every: int = 50,
        run: str | None = None,
    ):
        self.parameters, self.optimizer, self.scaler, self.generator = parameters, optimizer, scaler, generator
        self.path, self.every, self.run = keep_in, keep_every, run
        self.step, self.losses, self.grad_norms = 0, [], []
        self._generator_state = generator.get_state()
        self._saved_step, self._updating = 0, False

    def __enter__(self) -> "TuneState":
        if self.path is not None and os.path.exists(self.path):
            self._resume()
        self.watchdog = Watchdog(self.parameters)
        return self

    def __exit__(self, *_) -> None:
        if self.path is not None and self.step > self._saved_step and not self._updating:
            self._save()

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients; raises TavError if the loss depends on no trained tensor."""
        self.watchdog.before_backward(self.step, loss)
        self.scaler.scale(loss).backward()

    def clip(self, max_norm: float) -> Tensor:
        """Clips the gradients to a maximum norm, and returns the norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        return nn.utils.clip_grad_norm_(self.parameters.values(), max_norm)

    def update(self, loss: float, grad_norm: float) -> None:
        """Updates the weights, which ends the step and delays Ctrl-C until then. Raises TavError if tuning fails."""
        self.watchdog.before_update(self.step, loss, grad_norm, scaled=self.scaler.is_enabled())
        self._updating = True
        with _interrupts_wait():
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
            self.step += 1
            self.losses.append(loss)
            self.grad_norms.append(grad_norm)
            self._generator_state = self.generator.get_state()
            self._updating = False
        self.watchdog.after_update(self.step)
        if self.path is not None and self.step % self.every == 0:
            self._save()

    def _save(self) -> None:
        tensors = {"generator": self._generator_state}
        for name, parameter in self.parameters.items():
            tensors[f"parameter.{name}"] = parameter
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
        metadata = {
            "run": self.run,
            "step": self.step,
            "losses": self.losses,
            "grad_norms": self.grad_norms,
            "scaler": self.scaler.state_dict(),
        }
        write_tensors(self.path, tensors, FORMAT, metadata)
        self._saved_step = self.step

    def _resume(self) -> None:
        try:
            tensors, metadata = read_tensors(self.path, FORMAT)
            _checked(metadata, self.path)
        except TavError as error:
            raise TavError(f"{error} Delete this tuning checkpoint to start again.") from error
        if metadata["run"] != self.run:
            raise TavError(
                f"The tuning checkpoint {self.path} belongs to another run (another clip, prompt, model, device or "
                "setting). Restore those to resume, give another path, or delete it."
            )
        self._check_tensors(tensors)
        moments = {}
        for number, (name, parameter) in enumerate(self.parameters.items()):
            parameter.data.copy_(tensors[f"parameter.{name}"])
            if f"step.{name}" in tensors:
                # copied, since tensors may be views of the file, which the next save replaces
                moments[number] = {key: tensors[f"{key}.{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self._generator_state = tensors["generator"].clone()
        self.generator.set_state(self._generator_state)
        if metadata["scaler"]:
            self.scaler.load_state_dict(metadata["scaler"])
        self.step, self.losses, self.grad_norms = metadata["step"], metadata["losses"], metadata["grad_norms"]
        self._saved_step = self.step

    def _check_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        needed = {"generator": self._generator_state}
        for name, parameter in self.parameters.items():
            needed[f"parameter.{name}"] = parameter
            if f"step.{name}" in tensors:
                needed |= {f"{key}.{name}": parameter for key in ("exp_avg", "exp_avg_sq")}
        for name, tensor in needed.items():
            if name not in tensors or tensors[name].shape != tensor.shape or tensors[name].dtype != tensor.dtype:
                raise TavError(
                    f"{self.path} is damaged: its {name} is missing or does not fit. Delete this tuning checkpoint to "
                    "start again."
                )


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Delays Ctrl-C until the block is done; only the main thread receives it."""
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
