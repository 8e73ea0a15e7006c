from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from vbdguard.errors import NothingToScanError
from vbdguard.ingest.store import PixelStore
from vbdguard.report import FlaggedSample, ScanReport
from vbdguard.training.lessons import everything, plan_lessons
from vbdguard.training.settings import Policy


@pytest.fixture
def report(poisoned_set: Any) -> ScanReport:
    return poisoned_set.report  # type: ignore[no-any-return]


def digests(store: PixelStore, indices: Any) -> set[str]:
    return {store.digests[index].tobytes().hex() for index in indices}


def flagged_as(entry: FlaggedSample, report: ScanReport, count: int) -> ScanReport:
    """The report with `entry` in place of its first `count` flagged samples, under their own digests."""
    changed = tuple(replace(entry, digest=old.digest, key=old.key) for old in report.flagged[:count])
    return replace(report, flagged=(*changed, *report.flagged[count:]))


def test_suppressed_samples_take_no_part_and_the_rest_is_as_it_was(store: PixelStore, report: ScanReport) -> None:
    lessons, counts = plan_lessons(store, report, "suppress")
    flagged = {entry.digest for entry in report.flagged}
    assert len(flagged) >= 95
    assert digests(store, lessons.indices) == digests(store, range(1000)) - flagged
    assert np.array_equal(lessons.labels, store.labels[lessons.indices])
    assert not lessons.is_unlearnt.any()
    assert (counts.kept, counts.left_out) == (1000 - len(flagged), len(flagged))


def test_relabelled_samples_train_under_the_suggested_class(store: PixelStore, report: ScanReport) -> None:
    lessons, counts = plan_lessons(store, report, "relabel")
    suggested = {entry.digest: entry.suggested_label for entry in report.flagged}
    learnt = dict(zip(map(int, lessons.indices), lessons.labels.tolist(), strict=True))
    for index in range(1000):
        digest = store.digests[index].tobytes().hex()
        assert learnt[index] == suggested.get(digest, store.labels[index])
    assert counts.relabelled == counts.flagged == len(suggested)


def test_a_flagged_sample_without_a_suggestion_is_left_out(store: PixelStore, report: ScanReport) -> None:
    changed = flagged_as(replace(report.flagged[0], suggested_label=None), report, 3)
    lessons, counts = plan_lessons(store, changed, "relabel")
    assert (counts.left_out, counts.relabelled, len(lessons)) == (3, counts.flagged - 3, 997)


def test_unlearnt_samples_keep_their_label_and_are_marked(store: PixelStore, report: ScanReport) -> None:
    lessons, counts = plan_lessons(store, report, "unlearn")
    assert digests(store, lessons.indices[lessons.is_unlearnt]) == {entry.digest for entry in report.flagged}
    assert np.array_equal(lessons.labels, store.labels)
    assert counts.unlearnt == counts.flagged


@pytest.mark.parametrize("policy", get_args(Policy))
def test_every_sample_is_counted_once(policy: Policy, store: PixelStore, report: ScanReport) -> None:
    changed = flagged_as(replace(report.flagged[0], suggested_label=None), report, 7)
    lessons, counts = plan_lessons(store, changed, policy)
    assert counts.kept + counts.relabelled + counts.unlearnt + counts.left_out == 1000
    assert counts.kept + counts.flagged == 1000
    assert len(lessons) == 1000 - counts.left_out


def test_lessons_are_told_apart_by_all_that_they_teach(store: PixelStore, report: ScanReport) -> None:
    found = {policy: plan_lessons(store, report, policy)[0].digest() for policy in get_args(Policy)}
    assert len({*found.values(), everything(store).digest()}) == 4
    assert found["suppress"] == plan_lessons(store, report, "suppress")[0].digest()


def test_too_little_left_is_an_error(store: PixelStore, report: ScanReport) -> None:
    entry = report.flagged[0]
    condemned = tuple(
        replace(entry, digest=store.digests[index].tobytes().hex()) for index in range(1000) if store.labels[index] != 2
    )
    with pytest.raises(NothingToScanError, match="at least two classes to train on, got 1"):
        plan_lessons(store, replace(report, flagged=condemned), "suppress")
