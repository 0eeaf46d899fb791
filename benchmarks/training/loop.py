"""The training loop of all stages: one-cycle AdamW with a running mean of the weights, kept in a file."""

import copy
import time
from pathlib import Path

import torch
from torch import nn

from tav_core.files import atomic_path

SEED = 2212
EVERY = 100  # steps between two saves


class Training:
    """One-cycle AdamW with a running mean of the weights, saved every EVERY steps; an interrupted training resumes."""

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
        self.optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, total_steps=steps, pct_start=0.08)
        self.first, self.losses = 0, []
        if path.exists():
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.first, self.losses = state["step"], state["losses"]
            for name in ("modules", "mean", "optimizer", "schedule"):
                getattr(self, name).load_state_dict(state[name])

    def run(self, loss_of) -> nn.ModuleDict:
        started = time.time()
        for step in range(self.first, self.steps):
            loss = loss_of(step, torch.Generator().manual_seed(SEED + step))
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            decay = min(self.decay, (step + 1) / (step + 10))
            with torch.no_grad():
                for mean, now in zip(self.mean.parameters(), self.modules.parameters(), strict=True):
                    mean.lerp_(now, 1 - decay)
            self.losses.append(loss.item())
            if (step + 1) % 50 == 0:
                each = (time.time() - started) / (step + 1 - self.first)
                recent = sum(self.losses[-50:]) / len(self.losses[-50:])
                print(f"{self.path.stem} {step + 1}/{self.steps}  loss {recent:.5f}  {each:.3f} s/step", flush=True)
            if (step + 1) % EVERY == 0 or step + 1 == self.steps:
                self.save(step + 1)
        return self.mean.eval()

    def save(self, step: int) -> None:
        state = {name: getattr(self, name).state_dict() for name in ("modules", "mean", "optimizer", "schedule")}
        with atomic_path(self.path) as temporary:
            torch.save(state | {"step": step, "losses": self.losses}, temporary)
