"""A small dataset, its poisoned samples, and the report that a scan of it would give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from torch.utils.data import Dataset

from vbdguard.ingest.digest import dataset_digest, sample_digest, skipped_digest
from vbdguard.report import ClassReport, DatasetReport, FlaggedSample, ScanReport, SkippedSample

NAMES = ("ant", "bee", "cat")


class ArrayData(Dataset[Any]):
    """Raw uint8 arrays (N, H, W, 3) with their classes, and what torchvision's datasets have besides."""

    def __init__(self, count: int = 24, *, seed: int = 0) -> None:
        self.data = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
        self.targets = [index % 3 for index in range(count)]
        self.classes = list(NAMES)
        self.class_to_idx = {name: number for number, name in enumerate(NAMES)}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.data[index], self.targets[index]


def make_report(
    raw: list[tuple[Any, Any]],
    flagged: Mapping[int, int | None],
    *,
    skipped: Mapping[int, str] | None = None,
) -> ScanReport:
    """Return the report on raw (image, label) pairs.

    Args:
        raw: uint8 images and their classes; classes by name count in the order of NAMES.
        flagged: index to suggested class, for each flagged sample.
        skipped: index to reason, for each sample that could not be read.
    """
    skipped = skipped or {}
    digests = {i: sample_digest(image, label) for i, (image, label) in enumerate(raw) if i not in skipped}
    numbers = {i: NAMES.index(raw[i][1]) if isinstance(raw[i][1], str) else int(raw[i][1]) for i in digests}
    poisoned = {numbers[index] for index in flagged}
    stacked = np.frombuffer(b"".join(digests.values()), dtype=np.uint8).reshape(-1, 32)
    return ScanReport(
        status="incomplete" if skipped else "complete",
        verdict="poisoned" if flagged else "clean",
        dataset=DatasetReport(
            digest=dataset_digest(stacked, [skipped_digest(why, str(i).encode()) for i, why in skipped.items()]),
            sources=("ArrayData",),
            samples=len(digests),
            classes=3,
            image_shape=(6, 6, 3),
            shards=(),
        ),
        config={},
        seed=0,
        device="cpu",
        classes=tuple(
            ClassReport(
                label=number,
                name=name,
                samples=list(numbers.values()).count(number),
                poisoned=number in poisoned,
                flagged=sum(numbers[index] == number for index in flagged),
                p_value=0.0 if number in poisoned else 0.5,
                attack_success_rate=1.0 if number in poisoned else None,
                trigger=None,
            )
            for number, name in enumerate(NAMES)
        ),
        flagged=tuple(
            FlaggedSample(
                key=str(index), digest=digests[index].hex(), label=numbers[index], score=1.0, suggested_label=suggestion
            )
            for index, suggestion in flagged.items()
        ),
        skipped=tuple(SkippedSample(str(index), reason, "in a test") for index, reason in skipped.items()),
        timings={"total": 0.0},
        environment={},
        tool={"name": "vbdguard", "version": "0.1.0"},
    )


@pytest.fixture
def report_on() -> Callable[..., ScanReport]:
    """The function that makes reports."""
    return make_report


@pytest.fixture
def data() -> ArrayData:
    """24 samples of three classes; items 1, 4 and 10 (class 1) are flagged in `report`."""
    return ArrayData()


@pytest.fixture
def report(data: ArrayData) -> ScanReport:
    """The report that flags items 1 and 4 (rather class 2 and class 0) and 10 (no suggestion)."""
    return make_report([data[index] for index in range(len(data))], {1: 2, 4: 0, 10: None})
