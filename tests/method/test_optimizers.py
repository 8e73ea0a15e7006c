"""The update rules against torch's optimiser classes, which are the oracle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vbdguard.method.optimizers import MomentumSGD, OneCycleAdamW, one_cycle


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (4,), (2, 4))]


def trained(weights: list[nn.Parameter], zero_grad: Callable[[], None], step: Callable[[], None], steps: int) -> Tensor:
    """Return the weights after steps on a small regression."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x, y = torch.randn(8, 3, generator=generator), torch.randn(8, 2, generator=generator)
        loss = ((x @ weights[0].T + weights[1]).relu() @ weights[2].T - y).square().mean()
        zero_grad()
        loss.backward()
        step()
    return torch.cat([weight.detach().flatten() for weight in weights])


def test_descent_with_momentum_is_torchs_to_the_last_bit() -> None:
    ours, theirs = parameters(), parameters()
    one = MomentumSGD(ours, lr=0.05, momentum=0.9, weight_decay=5e-4)
    other = torch.optim.SGD(theirs, lr=0.05, momentum=0.9, weight_decay=5e-4)
    before = torch.cat([weight.detach().flatten() for weight in ours])
    after = trained(ours, one.zero_grad, one.step, 20)
    assert torch.equal(after, trained(theirs, other.zero_grad, lambda: other.step() and None, 20))
    assert not torch.equal(after, before)


@pytest.mark.parametrize("steps", [2, 3, 4, 7, 40])
def test_one_cycle_of_adamw_is_torchs_to_the_last_bit(steps: int) -> None:
    ours, theirs = parameters(), parameters()
    one = OneCycleAdamW(ours, lr=3e-3, weight_decay=1e-3, steps=steps)
    other = torch.optim.AdamW(theirs, lr=3e-3, weight_decay=1e-3)
    cycle = torch.optim.lr_scheduler.OneCycleLR(other, 3e-3, total_steps=steps)

    def step() -> None:
        other.step()
        cycle.step()

    assert torch.equal(trained(ours, one.zero_grad, one.step, steps), trained(theirs, other.zero_grad, step, steps))


def test_the_cycle_rises_and_falls() -> None:
    rates = [one_cycle(step, 101, 1.0)[0] for step in range(101)]
    assert rates[0] == pytest.approx(0.04)
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates[100] == pytest.approx(4e-6)
    assert rates[:29] == sorted(rates[:29])
    assert rates[30:] == sorted(rates[30:], reverse=True)


@pytest.mark.parametrize(
    ("optimizer", "loads"),
    [
        (
            "from vbdguard.method.optimizers import MomentumSGD as O; O([w], lr=0.1, momentum=0.9, weight_decay=0)",
            False,
        ),
        ("from vbdguard.method.optimizers import OneCycleAdamW as O; O([w], lr=0.1, weight_decay=0, steps=9)", False),
        ("O = torch.optim.SGD; O([w], lr=0.1)", True),
    ],
)
def test_training_loads_no_compiler(optimizer: str, loads: bool) -> None:
    """Torch's own classes do: were that to change, this module would have no reason to be."""
    make, create = optimizer.split("; ")
    code = (
        f"import sys, torch\n{make}\nw = torch.nn.Parameter(torch.ones(3))\nopt = {create}\n"
        "w.sum().backward()\nopt.step()\nopt.zero_grad()\nsys.exit(9 if 'torch._dynamo' in sys.modules else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == (9 if loads else 0), result.stderr
