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
    _checked(metadata, path)
    if "generator" not in tensors or tensors["generator"].dtype != torch.uint8:
        raise _misfit(path, "generator")
    values = {key: tensor for key, tensor in tensors.items() if key != "generator"}
    if odd := [key for key, tensor in values.items() if not tensor.is_floating_point()]:
        raise _misfit(path, odd[0])
    if broken := without_numbers(values):
        raise TavError(f"{path} is damaged: its {brief(broken[0])} holds NaN or infinite values.")
    return tensors, metadata


def _misfit(path: str | os.PathLike, name: str) -> TavError:
    return TavError(f"{path} is damaged: its {brief(name)} is missing or does not fit.")


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

    def update(self, loss: float, grad_norm: float, *, on_images: bool = False) -> None:
        """Updates the weights, which ends the step and delays Ctrl-C until then. Raises TavError if tuning fails.

        on_images: the step saw separate images instead of a video.
        """
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
        self.watchdog.after_update(self.step, on_images=on_images)
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
        if (name := self._misfit(tensors, metadata)) is not None:
            raise TavError(f"{_misfit(self.path, name)} {AGAIN}")
        moments = {}
        for number, (name, parameter) in enumerate(self.parameters.items()):
            parameter.data.copy_(tensors[f"parameter.{name}"])
            if f"step.{name}" in tensors:
                # copied, since tensors may be views of the file, which the next save replaces; and in the parameter's
                # memory format, which fused AdamW takes for granted
                moments[number] = {key: torch.empty_like(parameter).copy_(tensors[f"{key}.{name}"]) for key in MOMENTS}
                moments[number]["step"] = tensors[f"step.{name}"].clone()
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self._generator_state = tensors["generator"].clone()
        self.generator.set_state(self._generator_state)
        if metadata["scaler"]:
            self.scaler.load_state_dict(metadata["scaler"])
        self.step, self.losses, self.grad_norms = metadata["step"], metadata["losses"], metadata["grad_norms"]
        self._saved_step = self.step

    def _misfit(self, tensors: Mapping[str, Tensor], metadata: dict) -> str | None:
        """What of a kept state is not of these parameters, this generator or this scaler; None if all is."""
        shapes = {"generator": self._generator_state.shape}
        for name, parameter in self.parameters.items():
            shapes[f"parameter.{name}"] = parameter.shape
            if any(f"{kind}.{name}" in tensors for kind in ("step", *MOMENTS)):
                shapes |= {f"{kind}.{name}": parameter.shape for kind in MOMENTS} | {f"step.{name}": torch.Size([])}
        for name, shape in shapes.items():
            if name not in tensors or tensors[name].shape != shape:
                return name
        scaler = metadata["scaler"]
        numbers = all(isinstance(value, (int, float)) for value in scaler.values())
        return None if numbers and scaler.keys() == self.scaler.state_dict().keys() else "scaler"


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
