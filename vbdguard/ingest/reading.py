"""What a shard holds, with the digest that names it: taken before the shard is read, or in the same pass.

The digest tells whether the store knows the shard, so a shard that it may know is hashed first. To hash every
shard first would mean to read new ones twice; what the store knows of another size is therefore taken for new.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from vbdguard.errors import ReadError
from vbdguard.ingest.digest import sample_digest, sequence_digest, skipped_digest
from vbdguard.sources.base import HashingShard, RawSample, Shard, Unreadable

MAX_REPLAY = 128 << 20
"""Bytes of a shard without a digest of its own that are kept between hashing and decoding, instead of read twice."""


class ShardReading:
    """The entries of a shard and what identifies it.

    Args:
        shard: the shard.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._kept: list[RawSample | Unreadable] | None = None
        self._identities: list[bytes] = []
        self._keys: list[str] = []
        self._label_types = bytearray()
        """Of each entry 0 for a class number, 1 for a class name, 2 for none: their digests do not tell them apart."""
        self._is_surveyed = False
        self.size = shard.size() if isinstance(shard, HashingShard) else None
        """Bytes of the file, None for a shard that cannot be hashed in the pass that reads it."""
        self.digest = ""
        """Hex digest of the shard's bytes or samples, as soon as it is known."""

    @property
    def key_prefix(self) -> str:
        """What keys begin with: the name of a shard that is a file, nothing for loose samples."""
        return "" if self._is_surveyed else self._shard.name

    @property
    def content(self) -> str:
        """Hex digest of all that a segment follows from: keys belong to a file's own content, not to loose files'."""
        if not self._is_surveyed:
            return self.digest
        keys = (key.encode("utf-8", "surrogatepass") for key in self._keys)
        return sequence_digest([*self._identities, *keys, bytes(self._label_types)])

    def hash(self) -> None:
        """Take the digest now.

        Raises:
            ReadError: if the shard cannot be read.
        """
        self.digest = self._shard.digest() or self._survey()

    def digest_of_failed(self) -> str:
        """Return the digest of a shard that could not be read as samples, "" where not even its bytes can be."""
        if not self.digest and self.size is not None:
            with suppress(ReadError):
                self.digest = self._shard.digest() or ""
        return self.digest

    def __iter__(self) -> Iterator[RawSample | Unreadable]:
        """Yield the entries; behind the last one the digest is known.

        Raises:
            ReadError: as the shard does.
        """
        if self._kept is not None:
            return iter(self._kept)
        if not self.digest and isinstance(self._shard, HashingShard):
            return self._shard.read_and_hash(self._take_digest)
        return self._shard.read()

    def check(self, seen: list[bytes]) -> None:
        """Compare the identities of the samples that were decoded with those that were hashed.

        Raises:
            ReadError: "changed" if they are not the same.
        """
        if self._is_surveyed and seen != self._identities:
            raise ReadError("changed", f"{self._shard.name} gave other samples when read again; scan it at rest")

    def _take_digest(self, digest: str) -> None:
        self.digest = digest

    def _survey(self) -> str:
        """Read and hash every sample; return the hex digest over them in their order."""
        self._is_surveyed = True
        kept: list[RawSample | Unreadable] = []
        size = 0
        for entry in self._shard.read():
            self._identities.append(entry_identity(entry))
            self._keys.append(entry.key)
            self._label_types.append(isinstance(entry.label, str) if isinstance(entry, RawSample) else 2)
            size += entry_bytes(entry)
            if size > MAX_REPLAY:
                kept.clear()
            else:
                kept.append(entry)
        self._kept = kept if size <= MAX_REPLAY else None
        return sequence_digest(self._identities)


def entry_identity(entry: RawSample | Unreadable) -> bytes:
    """Return the 32 bytes that stand for an entry in the digest of a shard that has none of its own."""
    if isinstance(entry, RawSample):
        return sample_digest(entry.image, entry.label)
    return skipped_digest(entry.reason, entry.key.encode("utf-8", "surrogatepass"))


def entry_bytes(entry: RawSample | Unreadable) -> int:
    """Return how many bytes of image an entry holds."""
    if isinstance(entry, Unreadable):
        return 0
    return len(entry.image) if isinstance(entry.image, bytes) else entry.image.nbytes
