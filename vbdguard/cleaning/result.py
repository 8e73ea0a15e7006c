"""What a clean copy holds: expected from a report beforehand, counted from what was written afterwards."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vbdguard.cleaning.places import CleanFolders
from vbdguard.cleaning.shards import CleanedShard, CleanTask, OnFlagged
from vbdguard.cleaning.tasks import Room
from vbdguard.errors import SourceError
from vbdguard.report import ClassReport, ScanReport
from vbdguard.sources.cutting import Fate


@dataclass(frozen=True, slots=True)
class CleanClass:
    """What becomes of one class; its samples are the sum, less what was skipped for its name."""

    label: int
    name: str
    kept: int
    relabelled: int
    """Moved to another class."""
    flagged: int
    """Moved to the quarantine."""


@dataclass(frozen=True, slots=True)
class CleanCopy:
    """What `clean` has written, or would write."""

    dest: Path
    quarantine: Path
    report: ScanReport
    policy: OnFlagged
    classes: tuple[CleanClass, ...]
    shards: int
    untouched_shards: int
    """Those that lose nothing and are copied or linked whole."""
    resumed_shards: int
    """Those that an earlier run had finished."""
    bytes_to_write: int
    """What was still to be written, as the source stores it; where nobody could say, a shard counts as 0."""
    skipped: int
    """Entries that no scan could read, or whose names must not be written."""

    @property
    def kept(self) -> int:
        """Samples in the copy under their own class."""
        return sum(entry.kept for entry in self.classes)

    @property
    def relabelled(self) -> int:
        """Samples in the copy under another class."""
        return sum(entry.relabelled for entry in self.classes)

    @property
    def flagged(self) -> int:
        """Samples in the quarantine."""
        return sum(entry.flagged for entry in self.classes)

    @property
    def unmended(self) -> tuple[ClassReport, ...]:
        """Classes with a trigger but without a flagged sample: their poison is still in the copy."""
        return tuple(entry for entry in self.report.poisoned_classes if not entry.flagged)

    @property
    def total(self) -> int:
        """All that the scan met."""
        return self.report.dataset.samples + len(self.report.skipped)


def expected_copy(
    report: ScanReport, folders: CleanFolders, tasks: Sequence[CleanTask], policy: OnFlagged, room: Room
) -> CleanCopy:
    """Return what is to be expected of a copy."""
    moved = Counter(
        entry.label for entry in report.flagged if policy == "relabel" and entry.suggested_label is not None
    )
    classes = tuple(
        CleanClass(
            entry.label,
            entry.name,
            entry.samples - entry.flagged,
            moved[entry.label],
            entry.flagged - moved[entry.label],
        )
        for entry in report.classes
    )
    return CleanCopy(
        dest=folders.dest,
        quarantine=folders.quarantine,
        report=report,
        policy=policy,
        classes=classes,
        shards=len(tasks),
        untouched_shards=sum(task.is_whole for task in tasks),
        resumed_shards=0,
        bytes_to_write=room.copy_bytes + room.quarantine_bytes,
        skipped=len(report.skipped),
    )


def counted_copy(outline: CleanCopy, report: ScanReport, cleaned: Sequence[CleanedShard]) -> CleanCopy:
    """Return the copy with the numbers of what was written.

    Raises:
        SourceError: if they are not those of what was scanned.
    """
    counts: Counter[tuple[int | str | None, Fate]] = Counter()
    for shard in cleaned:
        counts.update(shard.counts)
    labels = {label for label, fate in counts if fate is not Fate.SKIPPED}
    # As the scan numbers them: one name among the labels makes names of all.
    are_names = any(isinstance(label, str) for label in labels)
    numbers = {entry.name if are_names else entry.label: entry.label for entry in report.classes}
    by_class: dict[int, Counter[Fate]] = defaultdict(Counter)
    for (label, fate), count in counts.items():
        if fate is not Fate.SKIPPED and label is not None:
            by_class[numbers[str(label) if are_names else label]][fate] += count
    classes = tuple(
        CleanClass(
            entry.label,
            entry.name,
            *(by_class[entry.label][fate] for fate in (Fate.KEPT, Fate.RELABELLED, Fate.FLAGGED)),
        )
        for entry in report.classes
    )
    skipped = sum(count for (_, fate), count in counts.items() if fate is Fate.SKIPPED)
    resumed = sum(shard.was_done for shard in cleaned)
    copy = replace(outline, classes=classes, skipped=skipped, resumed_shards=resumed)
    written = copy.kept + copy.relabelled + copy.flagged + copy.skipped
    if written != copy.total or copy.relabelled + copy.flagged != len(report.flagged):
        raise SourceError(
            f"expected {copy.total} entries of which {len(report.flagged)} are flagged, wrote {copy.kept} kept, "
            f"{copy.relabelled} relabelled, {copy.flagged} flagged, {copy.skipped} skipped; scan again"
        )
    return copy
