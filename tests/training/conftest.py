"""Real images in small: four classes of crops, a tenth of them poisoned, what a scan says, and a clean test set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_scans import SMALL_DEFAULT

from vbdguard.attacks.copying import PoisonSettings
from vbdguard.attacks.poison import Poisoned, poison_arrays
from vbdguard.cli.demo_data import DemoSet
from vbdguard.config import ScanConfig
from vbdguard.ingest.reader import ingest
from vbdguard.ingest.store import PixelStore
from vbdguard.report import ScanReport
from vbdguard.scanner import scan
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import write_shards
from vbdguard.training.result import TrainingResult
from vbdguard.training.train import train_clean

CLASSES = (1, 4, 5, 9)
ATTACK = PoisonSettings(trigger="color_grid", target=0)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def crops(per_class: int, seed: int) -> tuple[Any, Any]:
    """Crops of four photographs at 16 x 16 pixels, uint8 (N, 16, 16, 3), and their classes 0 to 3."""
    drawn = [sample for sample in DemoSet(per_class, seed=seed).samples() if sample.label in CLASSES]
    large = np.stack([np.asarray(sample.image) for sample in drawn])
    small = large.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4)).astype(np.uint8)
    return small, np.array([CLASSES.index(int(sample.label)) for sample in drawn])


def raw_samples(images: Any, labels: Any) -> Iterable[RawSample]:
    pairs = zip(images, labels.tolist(), strict=True)
    return (RawSample(f"s{number:04d}", image, label) for number, (image, label) in enumerate(pairs))


@dataclass(frozen=True)
class Poisonings:
    """A poisoned training set on disk with all that is known about it."""

    train: str
    test: str
    truth: Poisoned
    cache: Path
    config: ScanConfig
    report: ScanReport
    attack: PoisonSettings

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `train_clean` that train in seconds, uncropped: a crop of 16 pixels often lacks the trigger."""
        return {
            "model": "small",
            "epochs": 6,
            "batch_size": 32,
            "lr": 0.05,
            "augment": False,
            "device": "cpu",
            "config": self.config,
            "report": self.report,
            "cache_dir": self.cache,
        }


@pytest.fixture(scope="session")
def poisoned_set(tmp_path_factory: pytest.TempPathFactory) -> Poisonings:
    folder = tmp_path_factory.mktemp("poisoned-set")
    truth = poison_arrays(*crops(250, seed=0), "color_grid", target=0)
    write_shards(raw_samples(truth.images, truth.labels), folder / "train", per_shard=400)
    write_shards(raw_samples(*crops(60, seed=1)), folder / "test", per_shard=400)
    train = str(folder / "train")
    report = scan(train, SMALL_DEFAULT, cache_dir=folder / "cache")
    return Poisonings(train, str(folder / "test"), truth, folder / "cache", SMALL_DEFAULT, report, ATTACK)


@pytest.fixture(scope="session")
def store(poisoned_set: Poisonings) -> PixelStore:
    """The 1,000 samples of the training set, as ingest hands them out."""
    return ingest(poisoned_set.train, store_dir=poisoned_set.cache).store


@pytest.fixture(scope="session")
def trained(poisoned_set: Poisonings, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingResult, Path]:
    """A guarded training beside an unguarded one, tested with the true trigger, and its folder."""
    folder = tmp_path_factory.mktemp("trained")
    options = poisoned_set.options
    attack, test = poisoned_set.attack, poisoned_set.test
    result = train_clean(
        poisoned_set.train, **options, checkpoint_dir=folder, test_source=test, attack=attack, compare=True
    )
    return result, folder
