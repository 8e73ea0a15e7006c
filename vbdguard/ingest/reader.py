"""The first pass: every shard read, hashed, decoded and stored; what cannot be read is named."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vbdguard.engines.base import Engine, EngineName
from vbdguard.engines.choice import open_engine
from vbdguard.engines.limits import Limits
from vbdguard.errors import CacheError, NothingToScanError, UnreadableError
from vbdguard.ingest.decode import decoder_id
from vbdguard.ingest.digest import DIGEST_BYTES, dataset_digest, sequence_digest, skipped_digest
from vbdguard.ingest.segments import DamagedSegmentError, Segment, SkippedEntry, load_segment, require_sound_pixels
from vbdguard.ingest.shard_pass import ReadShard, ReadSource, read_shards
from vbdguard.ingest.store import PixelStore, build_store
from vbdguard.progress import Progress, Silent
from vbdguard.report import ShardReport, SkippedSample, Status
from vbdguard.sources.base import ExifRule, Source
from vbdguard.sources.opening import open_source

log = logging.getLogger(__name__)

_SHOWN_REASONS = 3


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
    believed: str = ""
    """Hex digest of what was not read here but taken from partial scans, pixels included; empty for other sources."""
    unchecked: tuple[Path, ...] = ()
    """Segments whose pixels nobody has read since they were written."""

    @property
    def status(self) -> Status:
        """Whether everything in the source could be read."""
        return "incomplete" if self.skipped else "complete"

    @property
    def class_counts(self) -> tuple[int, ...]:
        """(K,) samples of each class."""
        return tuple(np.bincount(self.store.labels, minlength=len(self.store.class_labels)).tolist())

    def require_sound_pixels(self) -> None:
        """Read the pixels that were stored earlier and not looked at since.

        Raises:
            DamagedSegmentError: if they are not what was written.
        """
        for segment in self.unchecked:
            require_sound_pixels(segment)

    @property
    def judged(self) -> str:
        """Hex digest of what a scan gets to see: which samples could be decoded, how, and the numbers of their classes.

        The dataset's digest does not tell: it names the data, whoever may be able to decode how much of them.
        """
        seen = json.dumps([decoder_id(), self.exif_rules, self.store.image_shape, self.store.class_labels])
        parts = [seen.encode(), self.store.digests.tobytes()]
        return sequence_digest([*parts, self.believed.encode()] if self.believed else parts)


def ingest(
    source: Any,
    *,
    store_dir: Path,
    image_size: tuple[int, int] | None = None,
    label_key: str | None = None,
    engine: EngineName = "local",
    jobs: int | None = 1,
    limits: Limits | None = None,
    check_pixels: bool = True,
    progress: Progress | None = None,
) -> Ingested:
    """Return the store over a source's samples, with what is to be reported about the reading.

    Args:
        source: a `Source`, or anything that `open_source` takes.
        store_dir: where segments are kept and found again.
        image_size: canonical height and width in pixels; None takes them from the data (`vbdguard.ingest.sizing`).
        label_key: what holds the label, where it is not one of the usual places.
        engine: where shards are read; never changes a result, nor does `jobs`.
        jobs: how many are read at once; None takes one per core, or all that a Ray cluster has.
        limits: what one shard may cost; with limits a process of its own reads even a single one. A source that cannot
            be sent to other processes is read in this one, without limits.
        check_pixels: whether to read the pixels of what stands in the store already, which takes longer than to hash
            the shards; who does without may call `Ingested.require_sound_pixels` before he looks at them.
        progress: hears of one stage, "ingest", a step per shard.

    Raises:
        SourceError: if the source cannot be understood.
        NothingToScanError: if it holds no sample, or all are of one class.
        UnreadableError: if that is so and something in it could not be read.
        CacheError: if the store cannot be written.
        ConfigError: if the engine cannot be had.
    """
    opened: Source = open_source(source, label_key=label_key)
    read = read_shards(
        opened,
        engine_for(opened, engine, jobs=jobs, limits=limits),
        store_dir=store_dir,
        image_size=image_size,
        label_key=label_key,
        progress=progress or Silent(),
        check_pixels=check_pixels,
    )
    return joined(read)


def engine_for(source: Source, name: EngineName, *, jobs: int | None, limits: Limits | None) -> Engine:
    """Return the engine that reads a source: the one of that name, or this process for what cannot leave it."""
    if source.is_picklable:
        return open_engine(name, jobs=jobs, limits=limits)
    if name != "local":
        log.info("%s lives in this process and is read here, not on %s", ", ".join(source.names), name)
    return open_engine("local", jobs=1, limits=None)


def joined(read: ReadSource) -> Ingested:
    """Return what the shards of a whole source have become together, in whatever order they come.

    Raises:
        NothingToScanError: if it holds no sample, or all are of one class.
        UnreadableError: if that is so and something in it could not be read.
        CacheError: if a segment has gone or is damaged.
    """
    gathered = _gathered(read)
    segments, skipped = gathered.segments, gathered.skipped
    entries = tuple(pair[0] for pair in skipped)
    store = build_store(segments, gathered.prefixes, image_size=read.image_size, class_names=read.class_names)
    _check_scannable(read, store, entries)
    return Ingested(
        store,
        _dataset_digest(store, [pair[1] for pair in skipped], is_turned=any(segment.turned for segment in segments)),
        read.names,
        tuple(sorted(gathered.reports, key=lambda report: report.name)),
        entries,
        tuple(sorted({shard.exif for shard in read.shards})),
        unchecked=tuple(one.outcome.segment for one in read.shards if one.outcome.segment and one.outcome.is_unchecked),
    )


def left_out(read: ReadSource) -> tuple[int, tuple[SkippedSample, ...]]:
    """Return how many samples of a share could be read, and what could not, sorted by key.

    Raises:
        CacheError: if a segment has gone or is damaged.
    """
    gathered = _gathered(read)
    return sum(len(segment.keys) for segment in gathered.segments), tuple(pair[0] for pair in gathered.skipped)


@dataclass(frozen=True, slots=True)
class _Gathered:
    """What the shards have become, one by one."""

    segments: list[Segment]
    prefixes: list[str]
    """What the keys of each segment begin with."""
    reports: list[ShardReport]
    skipped: list[tuple[SkippedSample, SkippedEntry]]
    """Sorted by key."""


def _gathered(read: ReadSource) -> _Gathered:
    found = _Gathered([], [], [], [])
    for shard in read.shards:
        prefix = shard.outcome.key_prefix
        segment, entries = _result(shard, read.image_size)
        if segment is not None:
            found.segments.append(segment)
            found.prefixes.append(prefix)
        found.reports.append(_shard_report(shard, segment, entries))
        found.skipped.extend((SkippedSample(prefix + e.key, e.reason, e.detail), e) for e in entries)
    found.skipped.sort(key=lambda pair: (pair[0].key, pair[0].reason, pair[0].detail))
    return found


def _result(shard: ReadShard, size: tuple[int, int]) -> tuple[Segment | None, Sequence[SkippedEntry]]:
    """Return a shard's segment and what was left out of it; of a shard that failed, one entry for the whole."""
    outcome = shard.outcome
    if outcome.segment is None:
        reason, detail = outcome.failure
        identity = skipped_digest(reason, bytes.fromhex(outcome.digest) or shard.name.encode())
        return None, [SkippedEntry(shard.name, reason, detail, identity.hex(), was_read=False, is_shard=True)]
    try:
        segment = load_segment(outcome.segment, size, check_pixels=False)  # that is for the pass over the shard
    except DamagedSegmentError as error:
        raise CacheError(f"{outcome.segment} was damaged while it was in use: {error}; scan again") from error
    if segment is None:
        raise CacheError(f"{outcome.segment} was removed while it was in use; scan again")
    return segment, segment.skipped


def _shard_report(shard: ReadShard, segment: Segment | None, entries: Sequence[SkippedEntry]) -> ShardReport:
    samples = 0 if segment is None else len(segment.keys)
    status: Literal["complete", "incomplete", "unreadable"] = "incomplete" if entries else "complete"
    if not samples and any(entry.is_shard for entry in entries):
        status = "unreadable"
    return ShardReport(shard.name, shard.outcome.digest, samples, status)


def _dataset_digest(store: PixelStore, skipped: Sequence[SkippedEntry], *, is_turned: bool) -> str:
    identities = [bytes.fromhex(entry.identity) for entry in skipped if entry.was_read]
    read = np.frombuffer(b"".join(identities), np.uint8).reshape(-1, DIGEST_BYTES)
    unread = [bytes.fromhex(entry.identity) for entry in skipped if not entry.was_read]
    return dataset_digest(np.concatenate([store.digests, read]), unread, is_turned=is_turned)


def _check_scannable(read: ReadSource, store: PixelStore, skipped: Sequence[SkippedSample]) -> None:
    where = ", ".join(read.names)
    error = UnreadableError if skipped else NothingToScanError
    shown = "; ".join(f"{one.key}: {one.reason}: {one.detail}" for one in skipped[:_SHOWN_REASONS])
    if not len(store):
        found = f"none of its {len(skipped)} entries could be read: {shown}" if skipped else "it holds none"
        raise error(f"{where}: expected labelled images, {found}")
    if len(store.class_names) < 2:
        found = f"all {len(store)} samples that could be read are of class {store.class_names[0]}"
        unread = f" ({len(skipped)} could not be read: {shown})" if skipped else ""
        raise error(f"{where}: expected at least two classes, {found}{unread}; pass the whole data set")
