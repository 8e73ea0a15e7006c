"""What a model is to learn from each sample: the training set that a policy makes of a scan's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from vbdguard.errors import NothingToScanError
from vbdguard.ingest.store import PixelStore
from vbdguard.report import FlaggedSample, ScanReport
from vbdguard.training.settings import Policy


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """The n samples of a store that take part in training, with what they teach."""

    indices: NDArray[np.int64]
    """int64 (n,), ascending positions in the store."""
    labels: NDArray[np.int64]
    """int64 (n,), class indices 0 to K - 1."""
    is_unlearnt: NDArray[np.bool_]
    """bool (n,), true where the label is to be forgotten."""

    def __len__(self) -> int:
        return len(self.indices)

    def digest(self) -> str:
        """Return a hex digest of all of it."""
        hasher = blake3()
        for part in (self.indices, self.labels, self.is_unlearnt):
            hasher.update(np.ascontiguousarray(part).tobytes())
        return hasher.hexdigest()


@dataclass(frozen=True, slots=True)
class LessonCounts:
    """What became of the N samples of a scan: kept + relabelled + unlearnt + left_out = N."""

    kept: int
    """Not flagged; they train as they are."""
    flagged: int
    relabelled: int
    unlearnt: int
    left_out: int
    """Flagged samples that take no part."""


def everything(store: PixelStore) -> Lessons:
    """Return all samples with the labels that they bear: what an unguarded training learns."""
    count = len(store)
    return Lessons(np.arange(count), store.labels.copy(), np.zeros(count, dtype=np.bool_))


def plan_lessons(store: PixelStore, report: ScanReport, policy: Policy) -> tuple[Lessons, LessonCounts]:
    """Return the lessons that a policy makes of a report, and their counts.

    Args:
        store: the samples that the report speaks of.
        report: the scan's outcome on the same data.
        policy: what becomes of flagged samples; one without a suggested class cannot be relabelled and is left out.

    Raises:
        NothingToScanError: if fewer than two samples, or samples of one class only, are left.
    """
    found = _flagged(store, report)
    labels = store.labels.copy()
    takes_part = np.ones(len(store), dtype=np.bool_)
    is_unlearnt = np.zeros(len(store), dtype=np.bool_)
    place = {label: index for index, label in enumerate(store.class_labels)}
    for index, entry in found.items():
        if policy == "relabel" and entry.suggested_label is not None:
            labels[index] = place[entry.suggested_label]
        elif policy == "unlearn":
            is_unlearnt[index] = True
        else:
            takes_part[index] = False
    left_out = int((~takes_part).sum())
    acted_on = len(found) - left_out
    lessons = Lessons(np.flatnonzero(takes_part), labels[takes_part], is_unlearnt[takes_part])
    _require_enough(lessons, len(store))
    return lessons, LessonCounts(
        kept=len(store) - len(found),
        flagged=len(found),
        relabelled=acted_on if policy == "relabel" else 0,
        unlearnt=acted_on if policy == "unlearn" else 0,
        left_out=left_out,
    )


def _flagged(store: PixelStore, report: ScanReport) -> Mapping[int, FlaggedSample]:
    """Return the flagged samples by their place; copies of one image with one label share a digest and a fate."""
    entries = {bytes.fromhex(entry.digest): entry for entry in report.flagged}
    if not entries:
        return {}
    rows = map(bytes, store.digests)
    return {index: entries[row] for index, row in enumerate(rows) if row in entries}


def _require_enough(lessons: Lessons, total: int) -> None:
    taught = np.unique(lessons.labels[~lessons.is_unlearnt])
    if len(taught) < 2:
        raise NothingToScanError(
            f"expected kept samples of at least two classes to train on, got {len(taught)}: "
            f"of {total} samples {len(lessons)} are left; look at the scan's report before you train"
        )
