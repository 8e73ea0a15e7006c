"""One shard into one segment: the pass that workers make, each shard by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from vbdguard.errors import CacheError, ReadError, SourceError
from vbdguard.ingest.decode import decode_images
from vbdguard.ingest.digest import sample_digest, sequence_digest, skipped_digest
from vbdguard.ingest.segments import (
    DamagedSegmentError,
    SegmentWriter,
    SkippedEntry,
    load_segment,
    remove_segment,
    segment_key,
)
from vbdguard.sources.base import RawSample, Shard, Unreadable

MAX_REPLAY = 128 << 20
"""Bytes of a shard without a digest of its own that are kept between hashing and decoding, instead of read twice."""

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
    damage: str = ""
    """What was wrong with the segment that had to be rebuilt."""


def ingest_shard(task: ShardTask) -> ShardOutcome:
    """Make sure that the segment of a shard stands in the store; a known shard is not decoded again.

    Raises:
        CacheError: if the store cannot be written.
        SourceError: if a package for the format is missing.
    """
    digest = ""
    try:
        samples = _Replay(task.shard)
        digest = task.shard.digest() or samples.digest()
        # Keys belong to a file's own content; those of loose files come from outside of it.
        content = samples.identity() if samples.was_surveyed else digest
        path = task.store_dir / "segments" / segment_key(content, image_size=task.image_size, label_key=task.label_key)
        try:
            segment, damage = load_segment(path, task.image_size), ""
        except DamagedSegmentError as error:
            segment, damage = None, f"{path.name}: {error}"
            remove_segment(path)
        if segment is None:
            _build(task, samples, digest, path)
        return ShardOutcome(digest, path, samples.key_prefix, damage=damage)
    except ReadError as error:
        return ShardOutcome(digest, None, failure=(error.reason, error.detail))
    except (CacheError, SourceError):
        raise
    except Exception as error:  # one shard that breaks a library must cost this shard, not the scan
        return ShardOutcome(digest, None, failure=("error", f"{type(error).__name__}: {error}"))


def _build(task: ShardTask, samples: _Replay, digest: str, path: Path) -> None:
    skipped: list[SkippedEntry] = []
    seen: list[bytes] = []
    prefix = samples.key_prefix
    writer = SegmentWriter(task.staging / uuid4().hex, task.image_size)
    try:
        for batch in _batches(samples, task.image_size):
            decoded = iter(decode_images([e.image for e in batch if isinstance(e, RawSample)], task.image_size))
            for entry in batch:
                if isinstance(entry, Unreadable):
                    skipped.append(_skipped(entry, prefix, digest))
                    seen.append(entry_identity(entry))
                    continue
                key = entry.key.removeprefix(prefix)
                identity = sample_digest(entry.image, entry.label)
                seen.append(identity)
                pixels = next(decoded)
                if isinstance(pixels, ReadError):
                    skipped.append(SkippedEntry(key, pixels.reason, pixels.detail, identity.hex(), True, False))
                else:
                    writer.add(key, entry.label, identity, pixels)
        samples.check(seen)
        writer.commit(path, skipped)
    finally:
        writer.close()


def _skipped(entry: Unreadable, prefix: str, digest: str) -> SkippedEntry:
    # Inside a file its bytes identify the entry whatever the file is called; a loose file has nothing but its key.
    content = bytes.fromhex(digest) if prefix else entry.key.encode("utf-8", "surrogatepass")
    identity = skipped_digest(entry.reason, content).hex()
    return SkippedEntry(entry.key.removeprefix(prefix), entry.reason, entry.detail, identity, False, entry.is_shard)


def entry_identity(entry: RawSample | Unreadable) -> bytes:
    """Return the 32 bytes that stand for an entry in the digest of a shard that has none of its own."""
    if isinstance(entry, RawSample):
        return sample_digest(entry.image, entry.label)
    return skipped_digest(entry.reason, entry.key.encode("utf-8", "surrogatepass"))


def _batches(entries: Iterable[RawSample | Unreadable], image_size: tuple[int, int]) -> Iterator[Batch]:
    """Yield the entries in batches that stay below `_BATCH_BYTES`, encoded and decoded, where a single one does."""
    height, width = image_size
    at_most = min(_BATCH_ENTRIES, max(1, _BATCH_BYTES // (height * width * 3)))
    batch: Batch = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += _weight(entry)
        if len(batch) == at_most or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _weight(entry: RawSample | Unreadable) -> int:
    if isinstance(entry, Unreadable):
        return 0
    return len(entry.image) if isinstance(entry.image, bytes) else entry.image.nbytes


class _Replay:
    """The samples of a shard, hashed first where the shard has no digest, and read only once where they are few."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._kept: list[RawSample | Unreadable] | None = None
        self._identities: list[bytes] = []
        self._keys: list[str] = []
        self.was_surveyed = False

    def digest(self) -> str:
        """Read and hash every sample; return the hex digest over them in their order."""
        self.was_surveyed = True
        kept: list[RawSample | Unreadable] = []
        size = 0
        for entry in self._shard.read():
            self._identities.append(entry_identity(entry))
            self._keys.append(entry.key)
            size += _weight(entry)
            if size > MAX_REPLAY:
                kept.clear()
            else:
                kept.append(entry)
        self._kept = kept if size <= MAX_REPLAY else None
        return sequence_digest(self._identities)

    @property
    def key_prefix(self) -> str:
        """What keys begin with: the name of a shard that is a file, nothing for loose samples."""
        return "" if self.was_surveyed else self._shard.name

    def identity(self) -> str:
        """Return the hex digest over samples and keys."""
        keys = (key.encode("utf-8", "surrogatepass") for key in self._keys)
        return sequence_digest([*self._identities, *keys])

    def check(self, seen: list[bytes]) -> None:
        """Compare the samples that were decoded with those that were hashed.

        Raises:
            ReadError: "changed" if they are not the same.
        """
        if self.was_surveyed and seen != self._identities:
            raise ReadError("changed", f"{self._shard.name} gave other samples when read again; scan it at rest")

    def __iter__(self) -> Iterator[RawSample | Unreadable]:
        return iter(self._kept) if self._kept is not None else self._shard.read()
