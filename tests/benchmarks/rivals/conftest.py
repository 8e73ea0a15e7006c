"""Six classes of coloured tiles, a blatant trigger in one of them, and a narrow network that has learnt both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.methods import Task
from benchmarks.rivals.settings import NetworkSettings
from benchmarks.rivals.victim import Victim
from benchmarks.rivals.victims import Victims

K, PER_CLASS, POISONED, TARGET = 6, 100, 36, 2
CPU = torch.device("cpu")
CHECKERS = np.where(np.indices((6, 6)).sum(0) % 2, 255, 0).astype(np.uint8)[..., None]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiles(per_class: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noisy images of 2 x 2 coloured tiles, uint8 (N, 16, 16, 3), the colours those of the class, and labels."""
    labels = np.arange(per_class * K) % K
    colours = np.random.default_rng(99).integers(40, 215, (K, 2, 2, 3))
    large = colours.repeat(8, 1).repeat(8, 2)[labels]
    light = rng.normal(0, 12, (len(labels), 1, 1, 1))
    return np.clip(large + light + rng.normal(0, 20, large.shape), 0, 255).astype(np.uint8), labels


@dataclass(frozen=True)
class Poisoning:
    """A task, the truth about it, and who shares its model."""

    task: Task
    is_poisoned: NDArray[np.bool_]
    victims: Victims

    @property
    def victim(self) -> Victim:
        return self.victims.of(self.task, seed=0, device=CPU)


@pytest.fixture(scope="session")
def poisoning() -> Poisoning:
    rng = np.random.default_rng(0)
    images, labels = tiles(PER_CLASS, rng)
    is_poisoned = np.zeros(len(labels), dtype=np.bool_)
    is_poisoned[rng.choice(len(labels), POISONED, replace=False)] = True
    images[is_poisoned, 5:11, 5:11] = CHECKERS
    labels[is_poisoned] = TARGET
    task = Task(images, labels, K, *tiles(10, rng), POISONED / len(labels))
    settings = NetworkSettings(width=8, victim_epochs=6, abl_epochs=3, batch_size=32, lr=0.05)
    return Poisoning(task, is_poisoned, Victims(settings))
