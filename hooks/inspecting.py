"""What can be asked of guarded data, whatever kind of thing they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vbdguard.errors import SourceError
from vbdguard.guards.counts import DropCounts
from vbdguard.guards.kinds import is_a, is_made_in
from vbdguard.report import ScanReport


def is_guarded(thing: Any) -> bool:
    """Return whether no unguarded sample can come out of a dataset, loader or pipeline."""
    return all(_is_guard(leaf) for leaf in _leaves(thing))


def report_of(guarded: Any) -> ScanReport:
    """Return the report that a guarded dataset, loader or pipeline rests on; the first, where it has several.

    Raises:
        SourceError: if it is not guarded.
    """
    report: ScanReport = guards_in(guarded)[0].report
    return report


def counts_of(guarded: Any) -> DropCounts:
    """Return what the guard in a dataset, loader or pipeline has dropped and relabelled so far.

    Raises:
        SourceError: if it is not guarded.
    """
    counts: DropCounts = guards_in(guarded)[0].counts
    return counts


def guards_in(guarded: Any) -> list[Any]:
    """Return the guards in a dataset, loader or pipeline, or the records that stand for them; at least one.

    Raises:
        SourceError: if a part of it is not guarded.
    """
    leaves = list(_leaves(guarded))
    for leaf in leaves:
        if not _is_guard(leaf):
            raise SourceError(f"expected something that vbdguard.guard gave, got a plain {type(leaf).__name__} in it")
    return [leaf if _is_own(leaf) else _record(leaf) for leaf in leaves]


def _is_guard(leaf: Any) -> bool:
    return _is_own(leaf) or _record(leaf) is not None


def _record(leaf: Any) -> Any:
    """Return what stands for the guard in an object of a framework; a wrapper that passes it on does not bear it."""
    record = getattr(leaf, "__dict__", {}).get("vbdguard")
    return record if is_made_in(type(record), "vbdguard") else None


def _is_own(leaf: Any) -> bool:
    return is_a(leaf, "vbdguard", "GuardedDataset", "GuardedStream")


def _leaves(thing: Any) -> Iterator[Any]:
    """Yield what lies inside loaders, subsets and wrappers of frameworks, down to guards or plain data."""
    if is_a(thing, "webdataset", "WebLoader"):
        yield from _leaves(thing.pipeline[0])
    elif is_a(thing, "torch", "ConcatDataset"):
        for part in thing.datasets:
            yield from _leaves(part)
    elif not _is_guard(thing) and (inner := getattr(thing, "dataset", None)) is not None and not _adds(thing, inner):
        yield from _leaves(inner)
    else:
        yield thing


def _adds(wrapper: Any, inner: Any) -> bool:
    """Return whether a wrapper that is no framework's own has more samples than what it wraps."""
    try:
        return not is_a(wrapper, "torch", "DataLoader", "Subset") and len(wrapper) > len(inner)
    except TypeError:  # a stream has no length
        return False
