"""The training loop of all stages: one-cycle AdamW with a running mean of the weights, kept in a file."""

import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from tav_core.files import atomic_path

SEED = 2212
SAVE_EVERY = 60  # seconds


class Training:
    """One-cycle AdamW with a running mean of the weights, saved every minute; an interrupted training resumes."""

    def __init__(
        self,
        path: Path,
        modules: dict[str, nn.Module],
        steps: int,
        rate: float,
        decay: float = 0.998,
    ):
        self.path, self.steps, self.decay = path, steps, decay
        self.modules = nn.ModuleDict(modules)
        self.mean = copy.deepcopy(self.modules).requires_grad_(False)
        parameters = [p for p in self.modules.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, total_steps=steps, pct_start=0.08)
        self.first, self.losses = 0, []
        if path.exists():
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.first, self.losses = state["step"], state["losses"]
            for name in ("modules", "mean", "optimizer", "schedule"):
                getattr(self, name).load_state_dict(state[name])

    def run(
        self, draw: Callable[[int, torch.Generator], tuple[Tensor, ...]], loss_of: Callable[..., Tensor]
    ) -> nn.ModuleDict:
        """draw: (step, generator) -> a batch on the modules' device; loss_of: the batch's tensors -> the loss."""
        started = saved = time.time()
        steps, recent = _Steps(self.modules, loss_of), []
        for step in range(self.first, self.steps):
            loss = steps(*draw(step, torch.Generator().manual_seed(SEED + step)))
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            decay = min(self.decay, (step + 1) / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_([*self.mean.parameters()], [*self.modules.parameters()], 1 - decay)
            recent.append(loss.detach().clone())
            if (step + 1) % 50 and step + 1 < self.steps:
                continue
            self.losses += torch.stack(recent).tolist()  # waits for the GPU
            each = (time.time() - started) / (step + 1 - self.first)
            mean = sum(self.losses[-len(recent) :]) / len(recent)
            print(f"{self.path.stem} {step + 1}/{self.steps}  loss {mean:.5f}  {each:.3f} s/step", flush=True)
            recent = []
            if step + 1 == self.steps or time.time() - saved > SAVE_EVERY:
                self.save(step + 1)
                saved = time.time()
        return self.mean.eval()

    def save(self, step: int) -> None:
        state = {name: getattr(self, name).state_dict() for name in ("modules", "mean", "optimizer", "schedule")}
        with atomic_path(self.path) as temporary:
            torch.save(state | {"step": step, "losses": self.losses}, temporary)


class _Steps:
    """Calls a loss; on a GPU as a recorded CUDA graph per batch shape, as launching its kernels takes the longest."""

    def __init__(self, modules: nn.ModuleDict, loss_of: Callable[..., Tensor]):
        self.modules, self.loss_of, self.graphs = modules, loss_of, {}

    def __call__(self, *batch: Tensor) -> Tensor:
        if batch[0].device.type != "cuda":
            return self.loss_of(*batch)
        shapes = tuple(tensor.shape for tensor in batch)
        if shapes not in self.graphs:
            call = _Loss(self.modules, self.loss_of)
            self.graphs[shapes] = torch.cuda.make_graphed_callables(call, batch, allow_unused_input=True)
        return self.graphs[shapes](*batch)


class _Loss(nn.Module):
    """A loss as a module, so that the graph knows which parameters it trains."""

    def __init__(self, modules: nn.ModuleDict, loss_of: Callable[..., Tensor]):
        super().__init__()
        self.trained, self.loss_of = modules, loss_of

    def forward(self, *batch: Tensor) -> Tensor:
        return self.loss_of(*batch)
