"""The training loop of all stages: one-cycle AdamW, or Muon, with a running mean of the weights, kept in a file."""

import argparse
import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tav_core.files import atomic_path

from .muon import Muon, is_matrix

SEED = 2212
SAVE_EVERY = 60  # seconds
LOOK_FIRST, LOOK_EVERY = 5, 50  # steps


class Length(NamedTuple):
    """How long to train: a number of steps, or as many as fit into some seconds."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Length":
        """ "7500", or "90s"."""
        try:
            length = cls(seconds=float(text[:-1])) if text.endswith("s") else cls(steps=int(text))
        except ValueError:
            length = cls(steps=-1)
        if not all(0 <= value < math.inf for value in length if value is not None):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a length; give a number of steps, such as 7500, or of seconds, such as 90s"
            )
        return length

    def __str__(self) -> str:
        return str(self.steps) if self.seconds is None else f"{self.seconds:g}s"


class Training:
    """One-cycle AdamW with a running mean of the weights, saved every minute; an interrupted training resumes.

    muon: train matrices with Muon instead.
    compiled: whether torch.compile first turns the loss into fewer kernels, which takes a minute, in bfloat16.
    """

    def __init__(
        self,
        path: Path,
        modules: dict[str, nn.Module],
        length: Length,
        rate: float,
        decay: float = 0.998,
        *,
        muon: bool = False,
        compiled: bool = False,
    ):
        self.path, self.length, self.rate, self.decay, self.compiled = path, length, rate, decay, compiled
        self.modules = nn.ModuleDict(modules)
        if compiled:
            self.modules.to(memory_format=torch.channels_last)
        self.mean = copy.deepcopy(self.modules).requires_grad_(False)
        self.parameters = [p for p in self.modules.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        matrices = [p for name, p in self.modules.named_parameters() if p.requires_grad and muon and is_matrix(name, p)]
        others = [p for p in self.parameters if not any(p is matrix for matrix in matrices)]
        self.optimizers = [torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)]
        self.optimizers += [Muon(matrices, lr=rate)] if matrices else []
        self.first, self.spent, self.losses = 0, 0.0, []
        if path.exists():
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.first, self.spent, self.losses = state["step"], state["spent"], state["losses"]
            for name, part in self._parts().items():
                part.load_state_dict(state[name])

    def run(
        self, draw: Callable[[int, torch.Generator], tuple[Tensor, ...]], loss_of: Callable[..., Tensor]
    ) -> nn.ModuleDict:
        """draw: (step, generator on the modules' device) -> a batch there; loss_of: the batch's tensors -> the loss."""
        steps, step, recent = _Steps(self.modules, loss_of, compiled=self.compiled), self.first, []
        if self._done(step, self.spent) < 1:
            steps(*draw(step, self._generator(step)))  # records the graph, which is not counted as time
        looked = saved = time.time()
        each = self.spent / step if step else 0.0
        while (done := self._done(step, self.spent + each * len(recent))) < 1:
            loss = steps(*draw(step, self._generator(step)))
            for optimizer in self.optimizers:
                optimizer.param_groups[0]["lr"] = self.rate * one_cycle(done)
                optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
            decay = min(self.decay, (step + 1) / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_([*self.mean.parameters()], [*self.modules.parameters()], 1 - decay)
            recent.append(loss.detach().clone())
            step += 1
            is_time = len(recent) == LOOK_EVERY or step == self.first + LOOK_FIRST
            if is_time or self._done(step, self.spent + each * len(recent)) >= 1:
                self.losses += torch.stack(recent).tolist()  # waits for the GPU
                now = time.time()
                self.spent, each, looked = self.spent + now - looked, (now - looked) / len(recent), now
                mean = sum(self.losses[-len(recent) :]) / len(recent)
                print(f"{self.path.stem} {step} of {self.length}  loss {mean:.5f}  {each:.4f} s/step", flush=True)
                recent = []
                if now - saved > SAVE_EVERY:
                    self.save(step)
                    saved = looked = time.time()
        if step > self.first:
            self.save(step)
        return self.mean.to(memory_format=torch.contiguous_format).eval()

    def _done(self, step: int, spent: float) -> float:
        """The share of the training that is done, 0..1."""
        done, whole = (step, self.length.steps) if self.length.seconds is None else (spent, self.length.seconds)
        return done / whole if whole else 1.0

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(SEED + step)

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        optimizers = {type(optimizer).__name__: optimizer for optimizer in self.optimizers}
        return {"modules": self.modules, "mean": self.mean, **optimizers}

    def save(self, step: int) -> None:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        with atomic_path(self.path) as temporary:
            torch.save(state | {"step": step, "spent": self.spent, "losses": self.losses}, temporary)


def one_cycle(done: float, warm: float = 0.08) -> float:
    """The learning rate relative to its peak: a cosine up from 1/25 in the share `warm` of the training, then to 0."""
    if done < warm:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * done / warm)) / 2
    return (1 + math.cos(math.pi * (done - warm) / (1 - warm))) / 2


class _Steps:
    """Calls a loss; on a GPU as a recorded CUDA graph per batch shape, as launching its kernels takes the longest."""

    def __init__(self, modules: nn.ModuleDict, loss_of: Callable[..., Tensor], *, compiled: bool):
        self.modules, self.loss_of, self.graphs = modules, _compiled(loss_of) if compiled else loss_of, {}

    def __call__(self, *batch: Tensor) -> Tensor:
        if batch[0].device.type != "cuda":
            return self.loss_of(*batch)
        shapes = tuple(tensor.shape for tensor in batch)
        if shapes not in self.graphs:
            call = _Loss(self.modules, self.loss_of)
            self.graphs[shapes] = torch.cuda.make_graphed_callables(call, batch, allow_unused_input=True)
        return self.graphs[shapes](*batch)


def _compiled(loss_of: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @torch.compile
    def call(*batch: Tensor) -> Tensor:
        with torch.autocast(batch[0].device.type, torch.bfloat16, cache_enabled=False):
            return loss_of(*batch)

    return call


class _Loss(nn.Module):
    """A loss as a module, so that the graph knows which parameters it trains."""

    def __init__(self, modules: nn.ModuleDict, loss_of: Callable[..., Tensor]):
        super().__init__()
        self.trained, self.loss_of = modules, loss_of

    def forward(self, *batch: Tensor) -> Tensor:
        return self.loss_of(*batch)
