"""One shard into one segment: the pass that workers make, each shard by itself.

A worker may be on another machine. Where it finds the scan's mark in the staging area it sees the scan's store, and the
segment goes there; where it does not, it makes the segment in a folder of its own and hands back the bytes.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from vbdguard.errors import CacheError, ConfigError, ReadError, SourceError
from vbdguard.ingest.decode import decode_images, decoder_id
from vbdguard.ingest.digest import sample_digest, skipped_digest
from vbdguard.ingest.orientation import make_turner
from vbdguard.ingest.packing import PackedSegment, pack_segment
from vbdguard.ingest.reading import ShardReading, entry_bytes, entry_identity
from vbdguard.ingest.segments import (
    DamagedSegmentError,
    SegmentWriter,
    SkippedEntry,
    load_segment,
    remove_segment,
    segment_key,
)
from vbdguard.sources.base import RawSample, Shard, Unreadable, exif_rule

_MARK = "mark"
Batch = list[RawSample | Unreadable]

_BATCH_ENTRIES = 256
_BATCH_BYTES = 4 << 20
"""Encoded, or decoded: what is read, then hashed and decoded together."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """What to do with one shard; picklable where the shard is."""

    shard: Shard
    store_dir: Path
    staging: Path
    image_size: tuple[int, int]
    label_key: str | None
    mark: str
    """What `leave_mark` has left in the staging area."""
    decoder: str
    """`decoder_id()` of the scan: two decoders may see one image differently."""
    check_pixels: bool = True
    """Whether to read the pixels of a segment that stands in the store already."""


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What came of it."""

    digest: str
    """Hex digest of the shard's bytes or samples; empty where it could not be taken."""
    segment: Path | None
    """Where the segment stands, None where the shard failed as a whole."""
    key_prefix: str = ""
    """What to put before the segment's keys: a file's segment does not know what the file is called today."""
    failure: tuple[str, str] = ("", "")
    """Reason and detail of the failure."""
    is_unchecked: bool = False
    """Whether it stood there already, and its pixels were not read."""
    damage: str = ""
    """What was wrong with the segment that had to be rebuilt."""
    packed: PackedSegment | None = None
    """The segment itself, from a worker that does not see the store."""
    is_hearsay: bool = False
    """Whether such a worker, going by the shard's size, holds its segment for stored: somebody must look."""


def leave_mark(staging: Path) -> str:
    """Leave a mark in the staging area, and return what it says.

    Raises:
        CacheError: if it cannot be written.
    """
    mark = secrets.token_hex(16)
    try:
        (staging / _MARK).write_text(mark, "ascii")
    except OSError as error:
        raise CacheError(f"{staging}: cannot write: {error}; free space, or pass another --cache-dir") from error
    return mark


def ingest_shard(task: ShardTask, *, known_sizes: Container[int | None] = ()) -> ShardOutcome:
    """Make sure that the segment of a shard stands in the store, or hand it back; a known shard is not decoded again.

    Args:
        task: the shard, and where its segment goes.
        known_sizes: bytes of the files whose segments stand in the store; a file of another size is new to it.

    Raises:
        CacheError: if the store cannot be written.
        ConfigError: if the images would be decoded otherwise than the scan does.
        SourceError: if a package for the format is missing.
    """
    if task.decoder != decoder_id():
        raise ConfigError(
            f"expected every worker to decode images with {task.decoder}, as the scan does, got {decoder_id()}; "
            "install the same packages on every node"
        )
    if _sees_store(task):
        return _ingest(task, known_sizes, sees_store=True)
    with tempfile.TemporaryDirectory(prefix="vbdguard-") as folder:
        return _ingest_apart(task, known_sizes, Path(folder))


def _sees_store(task: ShardTask) -> bool:
    try:
        return (task.staging / _MARK).read_text("ascii") == task.mark
    except (OSError, UnicodeDecodeError):
        return False


def _ingest_apart(task: ShardTask, known_sizes: Container[int | None], folder: Path) -> ShardOutcome:
    """Make the segment in a folder that nobody else sees, and return what it holds."""
    apart = replace(task, store_dir=folder, staging=folder / "staging")
    for place in (apart.staging, folder / "segments"):
        place.mkdir()
    outcome = _ingest(apart, known_sizes, sees_store=False)
    if outcome.segment is None:
        return outcome
    if outcome.is_hearsay:
        return replace(outcome, segment=task.store_dir / "segments" / outcome.segment.name)
    try:
        return replace(outcome, segment=None, packed=pack_segment(outcome.segment))
    except MemoryError as error:
        return ShardOutcome(outcome.digest, None, failure=_failure(error))


def _ingest(task: ShardTask, known_sizes: Container[int | None], *, sees_store: bool) -> ShardOutcome:
    reading: ShardReading | None = None
    try:
        reading = ShardReading(task.shard)
        damage = ""
        if reading.size is None or reading.size in known_sizes:
            reading.hash()
            path = _segment_path(task, reading)
            if not sees_store and reading.size in known_sizes:
                return ShardOutcome(reading.digest, path, reading.key_prefix, is_hearsay=True)
            try:
                if has_segment(path, task):
                    return ShardOutcome(reading.digest, path, reading.key_prefix, is_unchecked=not task.check_pixels)
            except DamagedSegmentError as error:
                damage = f"{path.name}: {error}"
                remove_segment(path)
        path = _build(task, reading)
        return ShardOutcome(reading.digest, path, reading.key_prefix, damage=damage)
    except (CacheError, SourceError):
        raise
    except Exception as error:  # one shard that breaks a library must cost this shard, not the scan
        return ShardOutcome("" if reading is None else reading.digest_of_failed(), None, failure=_failure(error))


def has_segment(path: Path, task: ShardTask) -> bool:
    """Return whether a segment stands in the store and will do; one that lacks what may be had now is removed.

    Raises:
        DamagedSegmentError: if it is not what was written.
    """
    segment = load_segment(path, task.image_size, check_pixels=task.check_pixels)
    if segment is None or segment.is_final:
        return segment is not None
    remove_segment(path)
    return False


def _failure(error: Exception) -> tuple[str, str]:
    """Return the reason and the detail of what ended the reading of a shard."""
    if isinstance(error, ReadError):
        return error.reason, error.detail
    if isinstance(error, MemoryError):
        found = str(error) or "an allocation failed"
        return "out-of-memory", f"{found}; let a process take more memory (--worker-memory), or cut the shard smaller"
    return "error", f"{type(error).__name__}: {error}"


def _segment_path(task: ShardTask, reading: ShardReading) -> Path:
    name = segment_key(
        reading.content,
        size=reading.size,
        image_size=task.image_size,
        label_key=task.label_key,
        exif=exif_rule(task.shard),
    )
    return task.store_dir / "segments" / name


def _build(task: ShardTask, reading: ShardReading) -> Path:
    """Decode a shard into its segment and return where that stands."""
    left_out: list[SkippedEntry | Unreadable] = []
    seen: list[bytes] = []
    prefix = reading.key_prefix
    turner = make_turner(exif_rule(task.shard))
    writer = SegmentWriter(task.staging / uuid4().hex, task.image_size)
    try:
        for batch in _batches(reading, task.image_size):
            images = [entry.image for entry in batch if isinstance(entry, RawSample)]
            decoded = iter(decode_images(images, task.image_size, turner))
            for entry in batch:
                if isinstance(entry, Unreadable):
                    left_out.append(entry)
                    seen.append(entry_identity(entry))
                    continue
                key = entry.key.removeprefix(prefix)
                identity = sample_digest(entry.image, entry.label)
                seen.append(identity)
                pixels = next(decoded)
                if isinstance(pixels, ReadError):
                    left_out.append(SkippedEntry(key, pixels.reason, pixels.detail, identity.hex(), True, False))
                else:
                    writer.add(key, entry.label, identity, pixels)
        reading.check(seen)
        path = _segment_path(task, reading)
        skipped = [one if isinstance(one, SkippedEntry) else _skipped(one, prefix, reading.digest) for one in left_out]
        writer.commit(path, skipped, turned=0 if turner is None else turner.turned)
        return path
    finally:
        writer.close()


def _skipped(entry: Unreadable, prefix: str, digest: str) -> SkippedEntry:
    # Inside a file its bytes identify the entry whatever the file is called; a loose file has nothing but its key.
    content = bytes.fromhex(digest) if prefix else entry.key.encode("utf-8", "surrogatepass")
    identity = skipped_digest(entry.reason, content).hex()
    return SkippedEntry(entry.key.removeprefix(prefix), entry.reason, entry.detail, identity, False, entry.is_shard)


def _batches(entries: Iterable[RawSample | Unreadable], image_size: tuple[int, int]) -> Iterator[Batch]:
    """Yield the entries in batches that stay below `_BATCH_BYTES`, encoded and decoded, where a single one does."""
    height, width = image_size
    at_most = min(_BATCH_ENTRIES, max(1, _BATCH_BYTES // (height * width * 3)))
    batch: Batch = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += entry_bytes(entry)
        if len(batch) == at_most or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
