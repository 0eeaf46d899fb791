"""The state of a tuning run, and the file from which it resumes bit for bit."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .errors import TavError, brief, shown
from .files import read_metadata, read_tensors, without_numbers, write_tensors
from .watchdog import Watchdog

FORMAT = "tune-a-video/run/1"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter, in its shape."""
AGAIN = "Delete this tuning checkpoint to start again."


def steps_kept_in(path: str | os.PathLike) -> int:
    """The steps done by the run that is saved in a file; 0 if there is no file. Raises TavError for any other file."""
    return _checked(read_metadata(path, FORMAT), path)["step"] if os.path.exists(path) else 0


def damage_in(path: str | os.PathLike) -> str | None:
    """What is wrong with a run's file, data included, so that it has to start again; None if nothing is."""
    if not os.path.exists(path):
        return None
    try:
        _read(path)
    except TavError as error:
        return str(error)
    return None


def _read(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the metadata of a run's file; raises TavError where they are not what was written."""
    tensors, metadata = read_tensors(path, FORMAT)
    metadata, generator = _checked(metadata, path), tensors.get("generator")
    if generator is None or generator.dtype != torch.uint8:
        raise TavError(f"{path} is damaged: it has no generator's state.")
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        of_parameter = tensors.get(f"parameter.{name}")
        if kind in MOMENTS and (of_parameter is None or tensor.shape != of_parameter.shape):
            raise TavError(f"{path} is damaged: {brief(key)} does not fit its parameter.")
    if broken := without_numbers({key: tensor for key, tensor in tensors.items() if key != "generator"}):
        raise TavError(f"{path} is damaged: {brief(broken[0])} holds values that are not finite numbers.")
    return tensors, metadata


def _checked(metadata: dict, path: str | os.PathLike) -> dict:
    """The metadata of a run's file; raises TavError where they are not what was written."""
    kinds = {"run": (str, type(None)), "step": int, "losses": list, "grad_norms": list, "scaler": dict}
    for name, kind in kinds.items():
        if not isinstance(metadata.get(name, ...), kind) or isinstance(metadata[name], bool):
            raise TavError(f"{path} is damaged: its {name} is missing or of another type.")
    if metadata["step"] < 0 or len(metadata["losses"]) != metadata["step"]:
        raise TavError(
            f"{path} is damaged: it has {shown(metadata['step'])} steps, but {len(metadata['losses'])} losses."
        )
    for name in ("losses", "grad_norms"):
        if not all(type(value) in (int, float) for value in metadata[name]):
            raise TavError(f"{path} is damaged: its {name} are not numbers.")
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
            tensors, metadata = _read(self.path)
        except TavError as error:
            raise TavError(f"{error} {AGAIN}") from error
        if metadata["run"] != self.run:
            raise TavError(
                f"The tuning checkpoint {self.path} belongs to another run (another clip, prompt, model, device or "
                "setting). Restore those to resume, give another path, or delete it."
            )
        if not self._fits(tensors, metadata):
            raise TavError(f"{self.path} is damaged: its tensors are not those of this network. {AGAIN}")
        moments = {}
        for number, (name, parameter) in enumerate(self.parameters.items()):
            parameter.data.copy_(tensors[f"parameter.{name}"])
            if f"step.{name}" in tensors:
                # copied, since tensors may be views of the file, which the next save replaces
                moments[number] = {key: tensors[f"{key}.{name}"].clone() for key in ("step", *MOMENTS)}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self._generator_state = tensors["generator"].clone()
        self.generator.set_state(self._generator_state)
        if metadata["scaler"]:
            self.scaler.load_state_dict(metadata["scaler"])
        self.step, self.losses, self.grad_norms = metadata["step"], metadata["losses"], metadata["grad_norms"]
        self._saved_step = self.step

    def _fits(self, tensors: Mapping[str, Tensor], metadata: dict) -> bool:
        """Whether the state of a run is one of these parameters, this generator and this scaler."""
        shapes = {
            name: tensors[f"parameter.{name}"].shape for name in self.parameters if f"parameter.{name}" in tensors
        }
        moments = [name for name in self.parameters if any(f"{kind}.{name}" in tensors for kind in MOMENTS)]
        scaler = metadata["scaler"]
        return (
            shapes == {name: parameter.shape for name, parameter in self.parameters.items()}
            and all(f"{kind}.{name}" in tensors for name in moments for kind in ("step", *MOMENTS))
            and all(tensors[f"step.{name}"].numel() == 1 for name in moments)
            and tensors["generator"].shape == self._generator_state.shape
            and scaler.keys() == self.scaler.state_dict().keys()
            and all(isinstance(value, (int, float)) for value in scaler.values())
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
