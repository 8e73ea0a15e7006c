"""What a guard did, counted per class and per epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vbdguard.report import ScanReport


@dataclass(frozen=True, slots=True)
class EpochCounts:
    """What became of the samples of one epoch; classes are numbers or names, as the data have them."""

    epoch: int | None
    """Counted from 0; None where the counts are of all epochs together."""
    passed: int
    """Samples handed to the trainer, those relabelled and those let pass among them."""
    dropped: Mapping[int | str, int]
    """Class to flagged samples that were left out."""
    relabelled: Mapping[int | str, int]
    """Old class to flagged samples that were handed on under another one."""
    unscanned: int
    """Samples that no scan has seen; left out or let pass as `on_unscanned` says."""
    let_pass: Mapping[int | str, int] = field(default_factory=dict)
    """Class to flagged samples that were handed on as they are (on_poison="warn")."""


@dataclass(frozen=True, slots=True)
class DropCounts:
    """What a guard did, epoch by epoch.

    A map-style dataset loses the same samples in every epoch: its counts are one entry, of one pass over all of it.
    """

    epochs: tuple[EpochCounts, ...]

    @property
    def total(self) -> EpochCounts:
        """The counts of all epochs together."""
        return EpochCounts(
            epoch=None,
            passed=sum(entry.passed for entry in self.epochs),
            dropped=_sum(entry.dropped for entry in self.epochs),
            relabelled=_sum(entry.relabelled for entry in self.epochs),
            unscanned=sum(entry.unscanned for entry in self.epochs),
            let_pass=_sum(entry.let_pass for entry in self.epochs),
        )


@dataclass(frozen=True, slots=True)
class GuardRecord:
    """What can be asked of guarded data that must stay of a framework's own type; stands there as `.vbdguard`."""

    report: ScanReport
    counts: DropCounts


def _sum(tables: Iterable[Mapping[int | str, int]]) -> dict[int | str, int]:
    total: Counter[int | str] = Counter()
    for table in tables:
        total.update(table)
    return dict(sorted(total.items(), key=lambda entry: (isinstance(entry[0], str), entry[0])))
