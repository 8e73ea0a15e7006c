"""Small natural images, clean and with a planted trigger, and settings that suit so few of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from pasting import candidate
from small_scans import SMALL_DEFAULT
from torch import Tensor

from vbdguard.attacks.poison import poison_arrays
from vbdguard.attacks.triggers import Mode, frame_trigger
from vbdguard.cli.demo_data import DemoSet
from vbdguard.config import DirectMethodConfig, EnsembleConfig
from vbdguard.method.ensemble import Ensemble, fit_ensemble
from vbdguard.method.samples import Samples
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.progress import Silent

CLASSES = (1, 4, 5, 9)
"""Bricks, coffee, coins and tissue: alike enough to be hard for stage 1, unlike enough for the label check."""
PER_CLASS, SIDE, TARGET = 250, 16, 0


@dataclass(frozen=True, slots=True)
class Planted:
    """A data set with a trigger, and the truth about it."""

    samples: Samples
    is_poisoned: Tensor
    """bool (N,)."""
    original_labels: Tensor
    target: int
    trigger: TriggerCandidate
    """The true one (of an all-to-one attack)."""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Results must not hang on the number of cores, and other work may share the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def natural() -> Samples:
    """A thousand crops of four photographs, 16 x 16 pixels, which no model of stage 1 tells apart easily."""
    drawn = [sample for sample in DemoSet(PER_CLASS).samples() if sample.label in CLASSES]
    crops = np.stack([np.asarray(sample.image) for sample in drawn])
    small = crops.reshape(-1, SIDE, 2, SIDE, 2, 3).mean((2, 4)).astype(np.uint8)
    labels = torch.tensor([CLASSES.index(int(sample.label)) for sample in drawn])
    return Samples(torch.from_numpy(small), labels, len(CLASSES))


def _plant(natural: Samples, mode: Mode, ratio: float) -> Planted:
    data = poison_arrays(
        natural.images.numpy(), natural.labels.numpy(), "color_grid", mode=mode, ratio=ratio, target=TARGET
    )
    return Planted(
        samples=Samples(torch.from_numpy(data.images), torch.from_numpy(data.labels), len(CLASSES)),
        is_poisoned=torch.from_numpy(data.is_poisoned),
        original_labels=torch.from_numpy(data.original_labels),
        target=TARGET,
        trigger=candidate(frame_trigger("color_grid", (SIDE, SIDE))),
    )


@pytest.fixture(scope="session")
def planted(natural: Samples) -> Planted:
    """The crops after an all-to-one attack on class 0: a 3 x 3 grid in the corner of every tenth."""
    return _plant(natural, "all-to-one", 0.1)


@pytest.fixture(scope="session")
def planted_everywhere(natural: Samples) -> Planted:
    """The crops after an all-to-all attack on a fifth of them."""
    return _plant(natural, "all-to-all", 0.2)


@pytest.fixture(scope="session")
def method() -> DirectMethodConfig:
    """Preset `default` with as many steps as a thousand images need, not as 50,000 would."""
    assert isinstance(SMALL_DEFAULT.method, DirectMethodConfig)
    return SMALL_DEFAULT.method


@pytest.fixture(scope="session")
def ensemble(planted: Planted) -> Ensemble:
    """Simple poisoned models of the all-to-one attack."""
    settings = EnsembleConfig(architectures=((16,), (8, 8)), epochs=4, batch_size=32, train_share=1.0)
    return fit_ensemble(planted.samples, settings, seed=0, progress=Silent())
