"""What every source of samples looks like to the rest of the house.

A source is a list of shards; a shard is the unit of independent reading: it can be pickled, sent to
another process and read there. Only the modules in this package know file formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

ExifRule = Literal["stored", "turned"]
"""Whether images are seen as they are stored, or turned by their EXIF orientation (`vbdguard.ingest.orientation`)."""


@dataclass(frozen=True, slots=True)
class RawSample:
    """One sample as it stands in its source, not yet decoded."""

    key: str
    """Readable id, unique where the source's ids are: `train-000003.tar/airplane_0012`, a relative path, an index."""
    image: bytes | NDArray[np.uint8]
    """The encoded file, or (for sources that hold no bytes) uint8 pixels (H, W) or (H, W, C), C = 1, 3 or 4."""
    label: int | str
    """A class number, or a class name where the source has names only."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A sample, or the rest of a shard, that could not be read."""

    key: str
    reason: str
    """A short fixed word: "no-label", "truncated", "undecodable", ..."""
    detail: str
    """What was expected, what came, what to do."""
    is_shard: bool = False
    """Whether the reading of the shard ended here."""


class Shard(Protocol):
    """A unit of independent reading; picklable unless the source lives in memory."""

    @property
    def name(self) -> str:
        """The shard's name as the report shows it, without the machine's directories."""

    def digest(self) -> str | None:
        """Return the hex BLAKE3 of the shard's bytes where it is one file, else None (then its samples decide)."""

    def read(self) -> Iterator[RawSample | Unreadable]:
        """Yield every sample in the shard's own order; what cannot be read comes as `Unreadable`, never as silence.

        Raises:
            ReadError: if the shard as a whole cannot be read.
        """


def exif_rule(shard: Shard) -> ExifRule:
    """Return how the reader that trains on a shard treats EXIF; a shard that is not "stored" says so in `exif`."""
    return cast(ExifRule, getattr(shard, "exif", "stored"))


@runtime_checkable
class HashingShard(Shard, Protocol):
    """A shard that is one file and can be hashed in the pass that reads it."""

    def size(self) -> int | None:
        """Return the file's bytes; None where nobody tells, or where this file must be hashed in a pass of its own."""

    def read_and_hash(self, on_digest: Callable[[str], None]) -> Iterator[RawSample | Unreadable]:
        """Yield what `read` yields; at the end `on_digest` gets what `digest` would say of the very bytes read.

        Raises:
            ReadError: if the shard as a whole cannot be read; then `on_digest` is not called.
        """


class Source(Protocol):
    """Where samples come from: files on disk, or a dataset in memory."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the user named, for the report's `dataset.sources`."""

    @property
    def shards(self) -> Sequence[Shard]:
        """The units of reading."""

    @property
    def class_names(self) -> Mapping[int, str] | None:
        """Names of the class numbers where the source knows them."""

    @property
    def is_picklable(self) -> bool:
        """Whether shards may be sent to other processes; a dataset in memory stays in this one."""
