"""The first pass: every shard read, hashed, decoded and stored; what cannot be read is named."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from vbdguard.engines.limits import Limits
from vbdguard.engines.local import WorkerDied, Workers
from vbdguard.errors import CacheError, NothingToScanError
from vbdguard.ingest.decode import decoder_id
from vbdguard.ingest.digest import DIGEST_BYTES, dataset_digest, sequence_digest, skipped_digest
from vbdguard.ingest.segments import DamagedSegmentError, Segment, SkippedEntry, known_sizes, load_segment
from vbdguard.ingest.shards import ShardOutcome, ShardTask, ingest_shard
from vbdguard.ingest.sizing import Votes, canonical_size, probe_sizes
from vbdguard.ingest.staging import staging_area
from vbdguard.ingest.store import PixelStore, build_store
from vbdguard.progress import Progress, Silent
from vbdguard.report import ShardReport, SkippedSample, Status
from vbdguard.sources.base import ExifRule, Shard, Source, exif_rule
from vbdguard.sources.opening import open_source

log = logging.getLogger(__name__)

_SHOWN_REASONS = 3
_ADVICE = {"timeout": "give it more time (--shard-timeout) or leave it out", "worker-died": "leave it out or repair it"}


@dataclass(frozen=True, slots=True)
class Ingested:
    """A source, read."""

    store: PixelStore
    dataset_digest: str
    sources: tuple[str, ...]
    shards: tuple[ShardReport, ...]
    """Sorted by name."""
    skipped: tuple[SkippedSample, ...]
    """Sorted by key."""
    exif_rules: tuple[ExifRule, ...] = ("stored",)
    """Those of the source's shards, sorted."""

    @property
    def status(self) -> Status:
        """Whether everything in the source could be read."""
        return "incomplete" if self.skipped else "complete"

    @property
    def class_counts(self) -> tuple[int, ...]:
        """(K,) samples of each class."""
        return tuple(np.bincount(self.store.labels, minlength=len(self.store.class_labels)).tolist())

    @property
    def judged(self) -> str:
        """Hex digest of what a scan gets to see: which samples could be decoded, how, and the numbers of their classes.

        The dataset's digest does not tell: it names the data, whoever may be able to decode how much of them.
        """
        seen = json.dumps([decoder_id(), self.exif_rules, self.store.image_shape, self.store.class_labels])
        return sequence_digest([seen.encode(), self.store.digests.tobytes()])


def ingest(
    source: Any,
    *,
    store_dir: Path,
    image_size: tuple[int, int] | None = None,
    label_key: str | None = None,
    jobs: int = 1,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Ingested:
    """Return the store over a source's samples, with what is to be reported about the reading.

    Args:
        source: a `Source`, or anything that `open_source` takes.
        store_dir: where segments are kept and found again.
        image_size: canonical height and width in pixels; None takes them from the data (`vbdguard.ingest.sizing`).
        label_key: what holds the label, where it is not one of the usual places.
        jobs: processes that read; never changes a result.
        limits: what one shard may cost; with limits a process of its own reads even a single one. A source that cannot
            be sent to other processes is read in this one, without limits.
        progress: hears of one stage, "ingest", a step per shard.

    Raises:
        SourceError: if the source cannot be understood.
        NothingToScanError: if no sample could be read, or all are of one class.
        CacheError: if the store cannot be written.
    """
    opened: Source = open_source(source, label_key=label_key)
    heard = progress or Silent()
    shards = opened.shards
    engine = Workers(jobs, limits) if opened.is_picklable else Workers(1)
    heard.begin("ingest", len(shards))
    try:
        # The workers end before the staging area is torn down: none may write behind its back.
        with staging_area(store_dir) as staging, engine as workers:
            size, lost = (image_size, {}) if image_size else _elect_size(shards, workers)
            tasks = [ShardTask(shard, store_dir, staging, size, _label_key(shard, label_key)) for shard in shards]
            outcomes = _read(tasks, lost, workers, heard)
    finally:
        heard.end()
    return _collect(opened, outcomes, size)


def _elect_size(shards: Sequence[Shard], workers: Workers) -> tuple[tuple[int, int], dict[int, WorkerDied]]:
    """Return the canonical size, and which shards were lost at the first look; nobody needs to lose them again."""
    votes: Votes = Counter()
    lost: dict[int, WorkerDied] = {}
    with closing(workers.map(probe_sizes, shards)) as done:
        for index, result in done:
            if isinstance(result, WorkerDied):
                lost[index] = result
            else:
                votes.update(result)
    return canonical_size(votes), lost


def _read(
    tasks: Sequence[ShardTask], lost: Mapping[int, WorkerDied], workers: Workers, progress: Progress
) -> list[ShardOutcome]:
    """Return what became of each shard, in the order of the tasks."""
    outcomes = {index: _lost_shard(died) for index, died in lost.items()}
    if lost:
        progress.advance(len(lost))
    left = [index for index in range(len(tasks)) if index not in lost]
    known = known_sizes(tasks[0].store_dir) if tasks else frozenset()
    one = partial(ingest_shard, known_sizes=known)
    with closing(workers.map(one, [tasks[index] for index in left])) as done:
        for place, result in done:
            outcomes[left[place]] = _lost_shard(result) if isinstance(result, WorkerDied) else result
            progress.advance()
    return [outcomes[index] for index in range(len(tasks))]


def _lost_shard(died: WorkerDied) -> ShardOutcome:
    return ShardOutcome("", None, failure=(died.reason, f"{died.detail}; {_ADVICE[died.reason]}"))


def _label_key(shard: Shard, label_key: str | None) -> str | None:
    # A file's shard knows where it looked for labels, also when the source was opened elsewhere.
    return cast("str | None", getattr(shard, "label_key", label_key))


def _collect(source: Source, outcomes: Sequence[ShardOutcome], size: tuple[int, int]) -> Ingested:
    """Join what the shards became."""
    segments: list[Segment] = []
    prefixes: list[str] = []
    reports: list[ShardReport] = []
    skipped: list[tuple[SkippedSample, SkippedEntry]] = []
    for shard, outcome in zip(source.shards, outcomes, strict=True):
        if outcome.damage:
            log.warning("a stored segment was damaged and has been rebuilt: %s", outcome.damage)
        segment, entries = _result(shard, outcome, size)
        if segment is not None:
            segments.append(segment)
            prefixes.append(outcome.key_prefix)
        reports.append(_shard_report(shard, outcome, segment, entries))
        skipped += [(SkippedSample(outcome.key_prefix + e.key, e.reason, e.detail), e) for e in entries]
    skipped.sort(key=lambda pair: (pair[0].key, pair[0].reason, pair[0].detail))
    left_out = tuple(pair[0] for pair in skipped)
    store = build_store(segments, prefixes, image_size=size, class_names=source.class_names)
    _check_scannable(source, store, left_out)
    return Ingested(
        store,
        _dataset_digest(store, [pair[1] for pair in skipped], is_turned=any(segment.turned for segment in segments)),
        source.names,
        tuple(sorted(reports, key=lambda report: report.name)),
        left_out,
        tuple(sorted({exif_rule(shard) for shard in source.shards})),
    )


def _result(
    shard: Shard, outcome: ShardOutcome, size: tuple[int, int]
) -> tuple[Segment | None, Sequence[SkippedEntry]]:
    """Return a shard's segment and what was left out of it; of a shard that failed, one entry for the whole."""
    if outcome.segment is None:
        reason, detail = outcome.failure
        identity = skipped_digest(reason, bytes.fromhex(outcome.digest) or shard.name.encode())
        return None, [SkippedEntry(shard.name, reason, detail, identity.hex(), was_read=False, is_shard=True)]
    try:
        segment = load_segment(outcome.segment, size, check_pixels=False)  # the shard's own pass has checked them
    except DamagedSegmentError as error:
        raise CacheError(f"{outcome.segment} was damaged while it was in use: {error}; scan again") from error
    if segment is None:
        raise CacheError(f"{outcome.segment} was removed while it was in use; scan again")
    return segment, segment.skipped


def _shard_report(
    shard: Shard, outcome: ShardOutcome, segment: Segment | None, entries: Sequence[SkippedEntry]
) -> ShardReport:
    samples = 0 if segment is None else len(segment.keys)
    status: Literal["complete", "incomplete", "unreadable"] = "incomplete" if entries else "complete"
    if not samples and any(entry.is_shard for entry in entries):
        status = "unreadable"
    return ShardReport(shard.name, outcome.digest, samples, status)


def _dataset_digest(store: PixelStore, skipped: Sequence[SkippedEntry], *, is_turned: bool) -> str:
    identities = [bytes.fromhex(entry.identity) for entry in skipped if entry.was_read]
    read = np.frombuffer(b"".join(identities), np.uint8).reshape(-1, DIGEST_BYTES)
    unread = [bytes.fromhex(entry.identity) for entry in skipped if not entry.was_read]
    return dataset_digest(np.concatenate([store.digests, read]), unread, is_turned=is_turned)


def _check_scannable(source: Source, store: PixelStore, skipped: Sequence[SkippedSample]) -> None:
    where = ", ".join(source.names)
    shown = "; ".join(f"{one.key}: {one.reason}: {one.detail}" for one in skipped[:_SHOWN_REASONS])
    if not len(store):
        found = f"none of its {len(skipped)} entries could be read: {shown}" if skipped else "it holds none"
        raise NothingToScanError(f"{where}: expected labelled images, {found}")
    if len(store.class_names) < 2:
        found = f"all {len(store)} samples that could be read are of class {store.class_names[0]}"
        unread = f" ({len(skipped)} could not be read: {shown})" if skipped else ""
        raise NothingToScanError(f"{where}: expected at least two classes, {found}{unread}; pass the whole data set")
