"""Which index of a dataset carries which digest.

A report names samples by key and digest. Keys are no identity: the same data in another order have the
same dataset digest and may get a cached report whose keys count differently. So flagged samples are
found by digest, and the digests are noted while the scan reads, without a second pass over the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vbdguard.errors import ReadError, SourceError, UnscannedSampleError
from vbdguard.ingest.decode import image_size
from vbdguard.ingest.digest import DIGEST_BYTES, dataset_digest, sample_digest, skipped_digest
from vbdguard.report import FlaggedSample, ScanReport, SkippedSample
from vbdguard.sources.base import RawSample, Shard, Unreadable
from vbdguard.sources.torch_dataset import RAW_REMEDY, TorchDatasetSource


class Ledger:
    """The digests of N samples by index, filled while they are read.

    Args:
        length: N.
    """

    def __init__(self, length: int) -> None:
        self._digests: NDArray[np.uint8] = np.zeros((length, DIGEST_BYTES), dtype=np.uint8)
        self._is_hashed: NDArray[np.bool_] = np.zeros(length, dtype=np.bool_)
        self.unscanned: dict[int, SkippedSample] = {}
        """The samples that a scan leaves out: unreadable ones, and readable ones that cannot be decoded."""
        self.has_names = False
        """Whether labels are class names."""

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def is_complete(self) -> bool:
        """Whether every index has been read or found unreadable."""
        return all(index in self.unscanned for index in np.flatnonzero(~self._is_hashed).tolist())

    def note(self, entry: RawSample | Unreadable) -> None:
        """Write down what a read gave for the index that is the entry's key.

        Raises:
            SourceError: if an earlier read gave something else for it.
        """
        index = int(entry.key)
        if isinstance(entry, Unreadable):
            self._require_unchanged(index, not self._is_hashed[index])
            self.unscanned[index] = SkippedSample(entry.key, entry.reason, entry.detail)
            return
        digest = np.frombuffer(sample_digest(entry.image, entry.label), dtype=np.uint8)
        is_known = index in self.unscanned or self._is_hashed[index]
        self._require_unchanged(index, not is_known or np.array_equal(self._digests[index], digest))
        self._digests[index] = digest
        self._is_hashed[index] = True
        self.has_names |= isinstance(entry.label, str)
        self._note_undecodable(index, entry)

    def _note_undecodable(self, index: int, sample: RawSample) -> None:
        try:
            image_size(sample.image)
        except ReadError as error:
            self.unscanned[index] = SkippedSample(sample.key, error.reason, error.detail)

    def _require_unchanged(self, index: int, is_unchanged: bool | np.bool_) -> None:
        if not is_unchanged:
            raise SourceError(f"index {index}: expected the same sample at each read, got another one; {RAW_REMEDY}")

    def digest_of(self, index: int) -> bytes:
        """Return the digest of one sample.

        Raises:
            KeyError: if it has not been read, or could not be.
        """
        if not self._is_hashed[index]:
            raise KeyError(index)
        return bytes(self._digests[index])

    def dataset_digest(self) -> str:
        """Return the hex digest of the dataset as it was read, as ingest computes it."""
        unread = [entry for index, entry in self.unscanned.items() if not self._is_hashed[index]]
        skipped = [skipped_digest(entry.reason, entry.key.encode()) for entry in unread]
        return dataset_digest(self._digests[self._is_hashed], skipped)

    def find(self, flagged: Sequence[FlaggedSample]) -> dict[int, FlaggedSample]:
        """Return the report's entry for each index whose digest it flags, in index order; twins share one entry."""
        by_digest = {bytes.fromhex(entry.digest): entry for entry in flagged}
        # Eight bytes decide for nearly all samples without a Python loop; the whole digest decides for the rest.
        heads = np.array([int.from_bytes(digest[:8], "little") for digest in by_digest], dtype=np.uint64)
        own = np.ascontiguousarray(self._digests[:, :8]).view("<u8").ravel()
        candidates = np.flatnonzero(self._is_hashed & np.isin(own, heads)).tolist()
        found = {index: by_digest.get(self._digests[index].tobytes()) for index in candidates}
        return {index: entry for index, entry in found.items() if entry is not None}


class NotingSource:
    """A dataset's source that fills a ledger while somebody else reads it.

    Args:
        source: what is read.
        ledger: of the same length.
    """

    is_picklable = False

    def __init__(self, source: TorchDatasetSource, ledger: Ledger) -> None:
        self._source = source
        self._ledger = ledger

    @property
    def names(self) -> tuple[str, ...]:
        """The source's names."""
        return self._source.names

    @property
    def shards(self) -> Sequence[NotingShard]:
        """The source's shards, each noting what it yields."""
        return [NotingShard(shard, self._ledger) for shard in self._source.shards]

    @property
    def class_names(self) -> Mapping[int, str] | None:
        """The source's class names."""
        return self._source.class_names


@dataclass(frozen=True, slots=True)
class NotingShard:
    """A shard that writes each sample's digest down before it hands the sample on."""

    shard: Shard
    ledger: Ledger

    @property
    def name(self) -> str:
        """The shard's name."""
        return self.shard.name

    def digest(self) -> str | None:
        """Return the shard's digest."""
        return self.shard.digest()

    def read(self) -> Iterator[RawSample | Unreadable]:
        """Yield what the shard yields."""
        for entry in self.shard.read():
            self.ledger.note(entry)
            yield entry


def read_all(source: NotingSource) -> None:
    """Read a source to its end, for the sake of its ledger."""
    for shard in source.shards:
        for _ in shard.read():
            pass


def require_same_data(ledger: Ledger, report: ScanReport, *, name: str) -> None:
    """Make sure that a report speaks of exactly the samples in a ledger, and left out the same of them.

    Raises:
        UnscannedSampleError: if it does not.
    """
    came = ledger.dataset_digest()
    if came != report.dataset.digest:
        scanned = len(ledger) - len(ledger.unscanned)
        raise UnscannedSampleError(
            f"{name}: expected the {report.dataset.samples} samples that the report speaks of (dataset digest "
            f"{report.dataset.digest[:16]}), got {scanned} samples with digest {came[:16]}; "
            "scan this dataset as it is now; a report on files does not fit a dataset of decoded images"
        )
    if len(report.skipped) != len(ledger.unscanned):
        raise UnscannedSampleError(
            f"{name}: expected {len(ledger.unscanned)} samples left out of the scan, the report has "
            f"{len(report.skipped)} ({', '.join(entry.key for entry in report.skipped[:3])}); scan it again"
        )
