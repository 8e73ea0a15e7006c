"""Counts add up over epochs and over what became of each sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vbdguard.guards.counts import DropCounts, EpochCounts
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.guards.policy import GuardWarning
from vbdguard.report import ScanReport


def test_the_total_is_the_sum_of_the_epochs() -> None:
    first = EpochCounts(epoch=0, passed=5, dropped={1: 2}, relabelled={}, unscanned=1, let_pass={2: 1})
    second = EpochCounts(epoch=1, passed=6, dropped={0: 3, 1: 1}, relabelled={2: 4}, unscanned=0)
    total = EpochCounts(epoch=None, passed=11, dropped={0: 3, 1: 3}, relabelled={2: 4}, unscanned=1, let_pass={2: 1})
    assert DropCounts(epochs=(first, second)).total == total


def test_nothing_counted_is_nothing_in_all() -> None:
    assert DropCounts(epochs=()).total == EpochCounts(None, 0, {}, {}, 0)


@pytest.mark.parametrize("policy", ["drop", "relabel", "warn"])
@pytest.mark.filterwarnings(f"ignore::{GuardWarning.__module__}.{GuardWarning.__name__}")
def test_every_sample_is_counted_once(data: Any, report: ScanReport, policy: Any) -> None:
    counts = GuardedDataset(data, report=report, on_poison=policy).counts.total
    flagged = [counts.dropped, counts.relabelled, counts.let_pass]
    assert counts.passed + sum(counts.dropped.values()) == 24
    assert sum(sum(table.values()) for table in flagged) == 3
    assert flagged == {"drop": [{1: 3}, {}, {}], "relabel": [{1: 1}, {1: 2}, {}], "warn": [{}, {}, {1: 3}]}[policy]


def test_classes_go_by_the_names_that_the_data_have(data: Any, report_on: Callable[..., ScanReport]) -> None:
    pairs = [(image, data.classes[label]) for image, label in (data[index] for index in range(24))]
    guarded = GuardedDataset(pairs, report=report_on(pairs, {1: 2, 5: None}), on_poison="relabel")
    assert (guarded.counts.total.relabelled, guarded.counts.total.dropped) == ({"bee": 1}, {"cat": 1})


def test_unscanned_samples_are_counted(data: Any, report_on: Callable[..., ScanReport]) -> None:
    pairs: list[Any] = [data[index] for index in range(24)]
    pairs[7] = (None, 1)
    report = report_on(pairs, {}, skipped={7: "bad-layout"})
    counts = GuardedDataset(pairs, report=report, on_unscanned="drop").counts.total
    assert (counts.unscanned, counts.passed) == (1, 23)
