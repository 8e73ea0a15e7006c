"""The optimisers of all stages that learn: torch's own update rules without torch's optimiser classes.

The classes load torch's compiler when the first of them is made: 150 MB of memory and two seconds, of a scan that takes
a minute and compiles nothing. The rules themselves do not, and what they compute is the same to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

_WARM_UP = 0.3
_FIRST, _LAST = 25.0, 1e4
"""Share of the steps that the learning rate rises in; its highest value over its first, and that over its last."""
_MOST_MOMENTUM, _LEAST_MOMENTUM = 0.95, 0.85
_BETA2, _EPS = 0.999, 1e-8


class MomentumSGD:
    """Gradient descent with momentum, as `torch.optim.SGD` does it.

    Args:
        parameters: what is trained.
        lr: learning rate.
        momentum: 0 to 1.
        weight_decay: added to the gradient, times the weight.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float) -> None:
        self._parameters = list(parameters)
        self._velocities: list[Tensor | None] = [None] * len(self._parameters)
        self._lr, self._momentum, self._weight_decay = lr, momentum, weight_decay

    def zero_grad(self) -> None:
        """Forget the gradients."""
        _forget_gradients(self._parameters)

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters against their gradients."""
        sgd(
            list[Tensor](self._parameters),
            _gradients(self._parameters),
            self._velocities,
            lr=self._lr,
            momentum=self._momentum,
            weight_decay=self._weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )


class OneCycleAdamW:
    """AdamW with a learning rate that rises and falls once, as `torch.optim.AdamW` with `OneCycleLR` does it.

    Args:
        parameters: what is trained.
        lr: the highest learning rate.
        weight_decay: share of a weight that goes with each step, times the learning rate.
        steps: how many steps the cycle takes.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float, steps: int) -> None:
        self._parameters = list(parameters)
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._counts = [torch.tensor(0.0) for _ in self._parameters]
        self._lr, self._weight_decay, self._steps = lr, weight_decay, steps
        self._step = 0

    def zero_grad(self) -> None:
        """Forget the gradients."""
        _forget_gradients(self._parameters)

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters by one step of the cycle."""
        lr, momentum = one_cycle(self._step, self._steps, self._lr)
        self._step += 1
        adamw(
            list[Tensor](self._parameters),
            _gradients(self._parameters),
            self._means,
            self._squares,
            [],
            self._counts,
            amsgrad=False,
            beta1=momentum,
            beta2=_BETA2,
            lr=lr,
            weight_decay=self._weight_decay,
            eps=_EPS,
            maximize=False,
        )


def one_cycle(step: int, steps: int, lr: float) -> tuple[float, float]:
    """Return learning rate and momentum of a step, counted from 0, of a cycle (Smith and Topin, 2018).

    Args:
        step: 0 to `steps` - 1.
        steps: of the whole cycle.
        lr: the highest learning rate.
    """
    top, end = _WARM_UP * steps - 1, steps - 1
    first = lr / _FIRST
    if step <= top:
        share = step / top
        return _between(first, lr, share), _between(_MOST_MOMENTUM, _LEAST_MOMENTUM, share)
    share = (step - top) / (end - top)
    return _between(lr, first / _LAST, share), _between(_LEAST_MOMENTUM, _MOST_MOMENTUM, share)


def _between(start: float, end: float, share: float) -> float:
    """Return what lies between two values, along half a wave of the cosine."""
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad if parameter.grad is not None else torch.zeros_like(parameter) for parameter in parameters]


def _forget_gradients(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None
