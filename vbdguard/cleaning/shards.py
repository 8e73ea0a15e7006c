"""One shard into its clean part and its quarantine: the work that processes share, each shard by itself.

A shard is done when its record stands in the quarantine: what became of each entry that did not stay, and the
digest of every file that was written. The record comes last, so a process that dies leaves a shard to do again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from blake3 import blake3

from vbdguard.atomic import write_atomically
from vbdguard.errors import ReadError, SourceError, VBDGuardError
from vbdguard.ingest.decode import decode_image
from vbdguard.ingest.digest import sequence_digest
from vbdguard.ingest.reading import entry_identity
from vbdguard.report import FlaggedSample, ShardReport, SkippedSample
from vbdguard.sources.base import RawSample, Shard, Unreadable, exif_rule
from vbdguard.sources.cutting import CuttingPlan, Fate, Places, Ruling, Written, is_safe_name
from vbdguard.sources.files import file_digest
from vbdguard.sources.folder import FolderShard
from vbdguard.sources.folder_cutting import plan_folder
from vbdguard.sources.parquet import ParquetShard
from vbdguard.sources.parquet_cutting import plan_parquet
from vbdguard.sources.tar import TarShard
from vbdguard.sources.tar_cutting import plan_tar
from vbdguard.sources.tar_notes import NOTES_ON_SAMPLES

OnFlagged = Literal["drop", "relabel"]


@dataclass(frozen=True, slots=True)
class CleanTask:
    """What to do with one shard; picklable."""

    shard: Shard
    expected: ShardReport
    """What the scan says about it."""
    flagged: tuple[FlaggedSample, ...]
    skipped: tuple[SkippedSample, ...]
    class_names: Mapping[int, str]
    triggers: Mapping[int, tuple[int, int, int, int]]
    """Where the trigger of each poisoned class stands: top, left, height, width in canonical pixels."""
    image_size: tuple[int, int]
    policy: OnFlagged
    places: Places
    records: Path
    link: bool

    @property
    def is_whole(self) -> bool:
        """Whether the scan has found nothing to leave out."""
        return not (self.flagged or self.skipped)

    @property
    def record_path(self) -> Path:
        """Where the shard's record stands when it is done."""
        return self.records / f"{blake3(self.shard.name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.json"


@dataclass(frozen=True, slots=True)
class CleanedShard:
    """What became of a shard, in numbers; the record has the rest."""

    counts: Mapping[tuple[int | str | None, Fate], int]
    """Entries by their label (None: unknown) and fate."""
    was_done: bool
    """Whether an earlier run had done it."""


def clean_shard(task: CleanTask) -> CleanedShard:
    """Write a shard's parts, read them again, and leave a record; a shard that has a true record is left alone.

    Raises:
        SourceError: if the shard is not the one that was scanned, or something cannot be written or read again.
    """
    if (record := _true_record(task)) is not None:
        return CleanedShard(_counts(record["counts"]), was_done=True)
    try:
        rulings, others, written = _cut(task)
        _check_written(task, rulings, written)
        record = _record(task, rulings, others, written)
        write_atomically(task.record_path, json.dumps(record))
    except ReadError as error:
        raise SourceError(f"{task.shard.name}: {error}") from error
    except OSError as error:
        raise SourceError(
            f"{task.shard.name}: cannot be copied: {error}; free space or grant access, then run the same command "
            "again: finished shards are not written twice"
        ) from error
    return CleanedShard(_counts(record["counts"]), was_done=False)


def read_entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what a record says about each entry that did not stay as it was, ready for reasons.jsonl."""
    yield from json.loads(path.read_bytes())["entries"]


def read_files(path: Path) -> list[str]:
    """Return the files that a record speaks of, as `<fate>/<path in its place>`."""
    return list(json.loads(path.read_bytes())["files"])


def _cut(task: CleanTask) -> tuple[Sequence[Ruling], Sequence[Unreadable], Sequence[Written]]:
    if not is_safe_name(task.shard.name):
        raise SourceError(f"{task.shard.name!r:.200}: expected a shard name that can be written; rename the shard")
    if task.expected.status == "unreadable":
        return [_unjudged(one) for one in task.skipped], (), ()
    rule = _Rule(task)
    plan = _plan(task.shard, rule)
    _check_scanned(task, plan, rule)
    return plan.rulings, plan.others, plan.write(task.places, link=task.link)


def _plan(shard: Shard, rule: _Rule) -> CuttingPlan:
    if isinstance(shard, TarShard):
        return plan_tar(shard, rule)
    if isinstance(shard, ParquetShard):
        return plan_parquet(shard, rule)
    if isinstance(shard, FolderShard):
        return plan_folder(shard, rule)
    raise SourceError(f"{shard.name}: expected a tar or parquet file or an image folder, got {type(shard).__name__}")


class _Rule:
    """Says what becomes of each entry of one shard, by its digest."""

    def __init__(self, task: CleanTask) -> None:
        self._task = task
        self._flagged = {entry.digest: entry for entry in task.flagged}
        self._skipped_keys = {entry.key for entry in task.skipped}
        self.identities: list[bytes] = []

    def __call__(self, entry: RawSample | Unreadable) -> Ruling:
        identity = entry_identity(entry)
        self.identities.append(identity)
        if isinstance(entry, Unreadable):
            return _unjudged(entry)
        ruling = Ruling(entry.key, Fate.KEPT, identity.hex(), entry.label)
        flag = self._flagged.get(ruling.digest)
        if flag is None:
            return self._if_decodable(entry, ruling)
        new = _new_label(entry, flag, self._task.class_names) if self._task.policy == "relabel" else None
        if new is None:
            return replace(ruling, fate=Fate.FLAGGED)
        new_digest = entry_identity(replace(entry, label=new)).hex()
        return replace(ruling, fate=Fate.RELABELLED, new_label=new, new_digest=new_digest)

    def _if_decodable(self, sample: RawSample, ruling: Ruling) -> Ruling:
        # The report names what could not be decoded by its key, and keys repeat: only decoding tells which one.
        if sample.key not in self._skipped_keys:
            return ruling
        try:
            decode_image(sample.image, self._task.image_size, exif=exif_rule(self._task.shard))
        except ReadError as error:
            return replace(ruling, fate=Fate.SKIPPED, reason=error.reason, detail=error.detail, is_judged=False)
        return ruling


def _unjudged(entry: SkippedSample | Unreadable) -> Ruling:
    return Ruling(entry.key, Fate.SKIPPED, reason=entry.reason, detail=entry.detail, is_judged=False)


def _new_label(sample: RawSample, flag: FlaggedSample, class_names: Mapping[int, str]) -> int | str | None:
    """Return the suggested class as the source writes classes; None where there is none or it cannot be said."""
    if flag.suggested_label is None:
        return None
    if isinstance(sample.label, str):
        return class_names.get(flag.suggested_label)
    return flag.suggested_label if flag.label == sample.label else None


def _check_scanned(task: CleanTask, plan: CuttingPlan, rule: _Rule) -> None:
    """Make sure that the shard which was planned on is the one that was scanned, entry for entry."""
    digest = plan.digest or sequence_digest(rule.identities)
    judged = sum(ruling.is_judged for ruling in plan.rulings)
    flagged = sum(ruling.fate in (Fate.FLAGGED, Fate.RELABELLED) for ruling in plan.rulings)
    came = (digest, judged, len(plan.rulings) - judged, flagged)
    expected = (task.expected.digest, task.expected.samples, len(task.skipped), len(task.flagged))
    if came != expected:
        raise SourceError(
            f"{task.shard.name}: expected what was scanned ({_words(expected)}), got {_words(came)}; "
            "scan again when nothing writes to it"
        )


def _words(state: tuple[str, int, int, int]) -> str:
    digest, judged, skipped, flagged = state
    return f"digest {digest[:16]}, {judged} samples of which {flagged} are flagged, {skipped} skipped"


def _check_written(task: CleanTask, rulings: Sequence[Ruling], written: Sequence[Written]) -> None:
    """Read back what was written: it must be those samples, in that order, and nothing else."""
    for part in written:
        if part.fate is Fate.SKIPPED:
            continue  # nobody can read those
        expected = [
            ruling.written_digest
            for ruling in rulings
            if not ruling.is_refused and (ruling.fate.stays if part.fate is Fate.KEPT else ruling.fate is part.fate)
        ]
        came = [entry_identity(entry).hex() for entry in part.shard.read() if not _is_note(entry)]
        if came != expected:
            for path in part.files:
                path.unlink(missing_ok=True)
            raise SourceError(
                f"{task.shard.name}: expected to read back the {len(expected)} {part.fate} samples, got {len(came)} "
                "or others; the disk may be failing, or something else writes there"
            )


def _is_note(entry: RawSample | Unreadable) -> bool:
    return isinstance(entry, Unreadable) and entry.reason in NOTES_ON_SAMPLES


def _record(
    task: CleanTask, rulings: Sequence[Ruling], others: Sequence[Unreadable], written: Sequence[Written]
) -> dict[str, Any]:
    scores = {entry.digest: entry for entry in task.flagged}
    entries = [_entry(task, ruling, scores.get(ruling.digest)) for ruling in rulings if ruling.fate is not Fate.KEPT]
    entries += [
        {"fate": "left-out", "key": f"{task.shard.name}/{one.key}", "reason": one.reason, "detail": one.detail}
        for one in others
    ]
    counts = Counter((ruling.label, ruling.fate) for ruling in rulings)
    return {
        "shard": task.shard.name,
        "digest": task.expected.digest,
        "counts": [[label, fate, count] for (label, fate), count in counts.items()],
        "entries": entries,
        "files": {
            f"{part.fate}/{path.relative_to(_place(task.places, part.fate))}": file_digest(str(path))
            for part in written
            for path in part.files
        },
    }


def _entry(task: CleanTask, ruling: Ruling, flag: FlaggedSample | None) -> dict[str, Any]:
    body: dict[str, Any] = {"fate": ruling.fate, "key": ruling.key, "digest": ruling.digest, "class": ruling.label}
    if ruling.is_refused:
        body["listed_only"] = True
    if flag is None:
        return body | {"reason": ruling.reason, "detail": ruling.detail}
    trigger = task.triggers.get(flag.label)
    body |= {"score": flag.score, "suggested_label": flag.suggested_label, "trigger": trigger, "reason": "poisoned"}
    if ruling.fate is Fate.RELABELLED:
        body |= {"new_class": ruling.new_label, "new_digest": ruling.new_digest}
    return body


def _true_record(task: CleanTask) -> dict[str, Any] | None:
    """Return the record of an earlier run if the shard and all that was written are still what it says."""
    try:
        record: dict[str, Any] = json.loads(task.record_path.read_bytes())
        if (record["shard"], record["digest"]) != (task.shard.name, task.expected.digest):
            return None
        for name, digest in record["files"].items():
            fate, _, path = name.partition("/")
            if not is_safe_name(path) or file_digest(str(_place(task.places, Fate(fate)) / path)) != digest:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, VBDGuardError):
        return None  # damaged or not there: the shard is done again
    return record


def _place(places: Places, fate: Fate) -> Path:
    return {Fate.KEPT: places.kept, Fate.FLAGGED: places.flagged, Fate.SKIPPED: places.skipped}[fate]


def _counts(rows: Sequence[Sequence[Any]]) -> dict[tuple[int | str | None, Fate], int]:
    return {(cast("int | str | None", label), Fate(fate)): count for label, fate, count in rows}
