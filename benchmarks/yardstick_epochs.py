"""The loops of the yardstick, and the time that a part of one takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.yardstick_models import detector_network, margin_gradient

_WARM_UP = 2
"""Batches left out where only some are timed: the first ones allocate and start workers."""

Step = Callable[[Any], int]
"""Works on one batch and returns how many samples it held."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A timed part of a loop over a data set."""

    seconds: float
    samples: int
    """Samples that went by meanwhile."""
    of: int
    """Samples of the whole loop."""

    @property
    def epoch_seconds(self) -> float:
        """What the whole loop takes at this pace."""
        return self.seconds / self.samples * self.of


def timed(loader: DataLoader[Any], step: Step, *, batches: int | None) -> Stretch:
    """Return the time of a loop.

    Args:
        loader: the batches.
        step: what is done with each; it waits for a GPU to finish.
        batches: how many are timed; None, or more than there are, times the whole loop from its start.
    """
    skipped, last = 0, len(loader)
    if batches is not None and _WARM_UP + batches <= len(loader):
        skipped, last = _WARM_UP, _WARM_UP + batches
    samples, start = 0, time.perf_counter()
    for number, batch in enumerate(loader):
        if number == last:
            break
        samples += step(batch)
        if number + 1 == skipped:
            samples, start = 0, time.perf_counter()
    return Stretch(time.perf_counter() - start, samples, _length(loader))


class PlainEnsemble:
    """Three models that see each batch in turn, each with an optimiser of its own (stage 1)."""

    def __init__(self, models: Sequence[nn.Module], device: torch.device) -> None:
        self.models = [model.to(device) for model in models]
        self.optimizers = [_sgd(model) for model in self.models]
        self.device = device

    def train(self, loader: DataLoader[Any], *, batches: int | None) -> Stretch:
        """Train on a split."""
        for model in self.models:
            model.train()
        return timed(loader, self._learn, batches=batches)

    @torch.no_grad()
    def evaluate(self, loader: DataLoader[Any], *, batches: int | None) -> Stretch:
        """Take loss and accuracy on a split."""
        for model in self.models:
            model.eval()
        return timed(loader, self._judge, batches=batches)

    def _learn(self, batch: tuple[Tensor, Tensor]) -> int:
        x, y = (tensor.to(self.device) for tensor in batch)
        for model, optimizer in zip(self.models, self.optimizers, strict=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            loss.item()
        return len(y)

    def _judge(self, batch: tuple[Tensor, Tensor]) -> int:
        x, y = (tensor.to(self.device) for tensor in batch)
        for model in self.models:
            logits = model(x)
            F.cross_entropy(logits, y).item()
            (logits.argmax(1) == y).sum().item()
        return len(y)


class PlainDetector:
    """A classifier of gradient images into clean and patched, which are computed anew for every batch (stage 5)."""

    def __init__(self, model: nn.Module, label: int, side: tuple[int, int], device: torch.device) -> None:
        self.model, self.label, self.device = model.to(device).eval(), label, device
        self.network = detector_network(side).to(device)
        self.optimizer = _sgd(self.network)

    def train(self, loader: DataLoader[Any], *, batches: int | None) -> Stretch:
        """Train on pairs of clean and patched images."""
        self.network.train()
        return timed(loader, self._learn, batches=batches)

    def _learn(self, batch: tuple[Tensor, Tensor]) -> int:
        clean, patched = (tensor.to(self.device) for tensor in batch)
        x = torch.cat([margin_gradient(self.model, one, self.label) for one in (clean, patched)])
        y = torch.cat([torch.zeros(len(clean)), torch.ones(len(patched))]).to(self.device)
        self.optimizer.zero_grad()
        scores = self.network(x).squeeze(1)
        loss = F.binary_cross_entropy(scores, y)
        loss.backward()
        self.optimizer.step()
        loss.item()
        return len(clean)


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def _length(loader: DataLoader[Any]) -> int:
    size: int = len(loader.dataset)  # type: ignore[arg-type]  # ours have a length
    return size
