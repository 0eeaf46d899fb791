"""benchmarks/operators.py counts what each operator reads and writes."""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
KIB = torch.zeros(256)


@pytest.fixture
def look(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    from operators import Operators

    return Operators(torch.device("cpu"), 1024.0, {torch.float32: 1024.0})


def costs(look) -> dict[str, tuple[int, float]]:
    """The calls and KiB moved of each operator."""
    return {name: (cost.calls, cost.moved / 1024) for (name, _), cost in look.costs.items()}


def test_what_is_read_and_written_counts_and_views_do_not(look):
    with look:
        (KIB + KIB).view(16, 16).T.expand(3, 16, 16)
        KIB.expand(8, 256).contiguous()
        KIB.clone().mul_(2)
    assert costs(look) == {"add": (1, 3), "clone": (2, 9 + 2), "mul_": (1, 2)}
    assert look.costs["add", "float32"].least == 3


@pytest.mark.parametrize(("way", "operator"), [("fused", "_fused_adamw_"), ("foreach", "_foreach_addcdiv_")])
def test_an_optimizer_s_step_counts_though_its_operators_return_nothing(look, way, operator):
    parameters = [torch.nn.Parameter(KIB.clone()) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = KIB.clone()
    optimizer = torch.optim.AdamW(parameters, **{way: True})
    with look:
        optimizer.step()
    calls, moved = costs(look)[operator]
    assert calls == 1
    assert moved >= 2 * 4
