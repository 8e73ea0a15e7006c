"""What a report means for the copy of each shard, and how much there is to write."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vbdguard.cleaning.places import CleanFolders, stored_bytes
from vbdguard.cleaning.shards import CleanTask, OnFlagged
from vbdguard.errors import SourceError
from vbdguard.report import FlaggedSample, ScanReport, ShardReport, SkippedSample
from vbdguard.sources.base import Shard, Source
from vbdguard.sources.folder import FolderShard


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that are still to be written, as the source stores them."""

    copy_bytes: int
    quarantine_bytes: int

    @classmethod
    def of(cls, tasks: Sequence[CleanTask]) -> Room:
        """Return what is left to do: neither shards that are done nor those that become links."""
        kept = moved = 0
        for task in tasks:
            if task.record_path.exists() or (task.link and task.is_whole):
                continue
            size, left_out = stored_bytes(task.shard), len(task.flagged) + len(task.skipped)
            part = size * left_out // max(1, task.expected.samples + len(task.skipped))
            kept, moved = kept + size - part, moved + part
        return cls(kept, moved)


def clean_tasks(
    source: Source, report: ScanReport, folders: CleanFolders, *, policy: OnFlagged, link: bool
) -> list[CleanTask]:
    """Return one task per shard, each with what the report says about it and no more.

    Raises:
        SourceError: if the report speaks of other shards or samples.
    """
    expected = {shard.name: shard for shard in report.dataset.shards}
    owner = _Owners(source)
    flagged: dict[str, list[FlaggedSample]] = defaultdict(list)
    skipped: dict[str, list[SkippedSample]] = defaultdict(list)
    for entry in report.flagged:
        flagged[owner.of(entry.key)].append(entry)
    for left_out in report.skipped:
        skipped[owner.of(left_out.key)].append(left_out)
    height, width, _ = report.dataset.image_shape
    return [
        CleanTask(
            shard=shard,
            expected=_expected(expected, shard),
            flagged=tuple(flagged[shard.name]),
            skipped=tuple(skipped[shard.name]),
            class_names={entry.label: entry.name for entry in report.classes},
            triggers={entry.label: entry.trigger.bbox for entry in report.classes if entry.trigger is not None},
            image_size=(height, width),
            policy=policy,
            places=folders.places,
            records=folders.records,
            link=link,
        )
        for shard in source.shards
    ]


def _expected(reports: Mapping[str, ShardReport], shard: Shard) -> ShardReport:
    if shard.name not in reports:
        raise SourceError(f"{shard.name}: the report does not speak of this shard; scan again")
    return reports[shard.name]


class _Owners:
    """Tells whose a key is: files put their own name before it, loose files have their path as the key."""

    def __init__(self, source: Source) -> None:
        self._names = {shard.name for shard in source.shards}
        self._files = {
            path: shard.name for shard in source.shards if isinstance(shard, FolderShard) for path, _ in shard.files
        }

    def of(self, key: str) -> str:
        """Return the name of the shard that holds a key."""
        if key in self._names:
            return key
        if key in self._files:
            return self._files[key]
        place = key.find("/")
        while place >= 0:
            if key[:place] in self._names:
                return key[:place]
            place = key.find("/", place + 1)
        raise SourceError(f"{key!r:.200}: the report speaks of a sample that no shard holds; scan again")
