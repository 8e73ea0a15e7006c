"""What can be asked of guarded data, whatever kind of thing they are."""

from __future__ import annotations

from typing import Any

from vbdguard.errors import SourceError
from vbdguard.guards.counts import DropCounts
from vbdguard.report import ScanReport


def report_of(guarded: Any) -> ScanReport:
    """Return the report that a guarded dataset, loader or pipeline rests on.

    Raises:
        SourceError: if it is not guarded.
    """
    report: ScanReport = _guard_inside(guarded).report
    return report


def counts_of(guarded: Any) -> DropCounts:
    """Return what the guard in a dataset, loader or pipeline has dropped and relabelled so far.

    Raises:
        SourceError: if it is not guarded.
    """
    counts: DropCounts = _guard_inside(guarded).counts
    return counts


def is_guarded(thing: Any) -> bool:
    """Return whether a dataset, loader or pipeline is guarded."""
    return _find_guard(thing) is not None


def settle(guarded: Any) -> None:
    """Let a guard that acts at first use act now."""
    from vbdguard.guards.dataset import GuardedDataset

    if isinstance(guarded, GuardedDataset):
        len(guarded)


def _guard_inside(thing: Any) -> Any:
    guard = _find_guard(thing)
    if guard is None:
        raise SourceError(f"expected something that vbdguard.guard gave, got a plain {type(thing).__name__}")
    return guard


def _find_guard(thing: Any) -> Any | None:
    """Return the guard itself, or the record of it that stands at data of a framework's own type."""
    from vbdguard.guards.dataset import GuardedDataset
    from vbdguard.guards.kinds import is_a

    # Loaders, subsets and wrappers of frameworks hold what they go around as `dataset`.
    while thing is not None:
        if isinstance(thing, GuardedDataset) or is_a(thing, "vbdguard", "GuardedStream"):
            return thing
        if (record := getattr(thing, "vbdguard", None)) is not None:
            return record
        thing = getattr(thing, "dataset", None)
    return None
