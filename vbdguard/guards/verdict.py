"""What a report means for one dataset: which of its indices pass, and under which class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vbdguard.guards.counts import DropCounts, EpochCounts
from vbdguard.guards.ledger import Ledger
from vbdguard.guards.policy import Policy
from vbdguard.guards.relabel import NewLabel
from vbdguard.report import FlaggedSample, ScanReport


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a scan means for the indices 0 to N - 1 of one dataset."""

    report: ScanReport
    length: int
    """N, when it was scanned."""
    kept: NDArray[np.int64]
    """(n,) ascending; the inner indices that pass."""
    flagged: NDArray[np.int64]
    """(m,) ascending; the inner indices whose digest the report flags."""
    new_labels: Mapping[int, NewLabel]
    """Inner index to its change of class; empty unless the policy relabels."""
    counts: DropCounts
    """What became of one pass over all samples."""


def apply_policy(policy: Policy, ledger: Ledger, report: ScanReport, *, name: str) -> Verdict:
    """Return which indices pass under a policy.

    Args:
        policy: what to do with flagged and with unscanned samples.
        ledger: the digests of the dataset, complete.
        report: the scan's outcome on the same data.
        name: what was scanned, for messages.

    Raises:
        PoisonFoundError: if the policy is to raise and there is poison.
        UnscannedSampleError: if the policy is to raise and there are unscanned samples.
    """
    found = ledger.find(report.flagged)
    policy.meet_poison(report, name=name, flagged=len(found))
    policy.meet_unscanned([ledger.unscanned[index] for index in sorted(ledger.unscanned)], name=name)
    names = _class_names(report, are_names=ledger.has_names)
    changes = _new_labels(found, names) if policy.on_poison == "relabel" else {}
    passes = np.ones(len(ledger), dtype=np.bool_)
    passes[list(ledger.unscanned)] = policy.on_unscanned == "warn"
    # A flagged sample without a suggested class has nothing to be relabelled to: it goes.
    passes[[index for index in found if policy.on_poison != "warn" and index not in changes]] = False
    kept = np.flatnonzero(passes).astype(np.int64)
    class_of = {index: names.get(entry.label, entry.label) for index, entry in found.items()}
    counts = EpochCounts(
        epoch=0,
        passed=len(kept),
        dropped=_per_class(label for index, label in class_of.items() if not passes[index]),
        relabelled=_per_class(class_of[index] for index in changes),
        unscanned=len(ledger.unscanned),
        let_pass=_per_class(label for index, label in class_of.items() if passes[index] and index not in changes),
    )
    return Verdict(
        report=report,
        length=len(ledger),
        kept=kept,
        flagged=np.array(list(found), dtype=np.int64),
        new_labels=changes,
        counts=DropCounts(epochs=(counts,)),
    )


def _class_names(report: ScanReport, *, are_names: bool) -> dict[int, int | str]:
    """Return each class as the data have it: the report numbers classes that have names only."""
    return {entry.label: entry.name if are_names else entry.label for entry in report.classes}


def _new_labels(found: Mapping[int, FlaggedSample], names: Mapping[int, int | str]) -> dict[int, NewLabel]:
    return {
        index: NewLabel(old=names[entry.label], new=names[entry.suggested_label])
        for index, entry in found.items()
        if entry.suggested_label is not None
    }


def _per_class(labels: Iterable[int | str]) -> dict[int | str, int]:
    return dict(sorted(Counter(labels).items(), key=str))
