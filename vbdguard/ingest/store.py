"""The pixel store: every readable sample of a scan, memory-mapped, in the order of its digest.

That order is a property of the data alone, so nothing behind the store depends on the order or the names of shards
or on the number of workers.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbdguard.errors import CacheError
from vbdguard.ingest.digest import DIGEST_BYTES, digest_order
from vbdguard.ingest.keys import ShardKeys
from vbdguard.ingest.segments import Segment, open_pixels

if TYPE_CHECKING:
    from collections.abc import Callable

_OPEN_SEGMENTS = 256
"""Memory maps held open; each costs a file descriptor, and 1,024 of those is a common limit."""


@dataclass(frozen=True, slots=True)
class ClassTable:
    """The classes of a data set, numbered 0 to K - 1."""

    labels: tuple[int, ...]
    """The source's own class number of each class."""
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PixelStore:
    """A read-only view of the samples of a scan.

    N samples in the order of their digests, ties in the order of their keys; K classes.
    """

    image_shape: tuple[int, int, int]
    """Canonical height, width and the 3 channels."""
    labels: NDArray[np.int64]
    """(N,) contiguous class indices, 0 to K - 1."""
    class_labels: tuple[int, ...]
    """(K,) the source's own class numbers, ascending; for class names their position in the sorted names."""
    class_names: tuple[str, ...]
    """(K,)"""
    digests: NDArray[np.uint8]
    """(N, 32) sample digests."""
    keys: Sequence[str]
    """(N,)"""
    _segments: tuple[Path, ...] = field(repr=False)
    _rows: NDArray[np.int32] = field(repr=False)
    """(N, 2) segment and row of each sample."""
    _open: Callable[[Path], NDArray[np.uint8]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: ArrayLike) -> NDArray[np.uint8]:
        """Return the pixels of some samples, uint8 (n, H, W, 3), in the order of `indices`.

        Args:
            indices: int (n,) in [0, N), any order, repeats allowed.

        Raises:
            IndexError: if an index is out of range.
            CacheError: if the store's files have gone.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"expected indices in [0, {len(self)}), got {wanted.min()} to {wanted.max()}")
        rows = self._rows[wanted]
        pixels = np.empty((len(wanted), *self.image_shape), np.uint8)
        for segment in np.unique(rows[:, 0]):
            places = np.flatnonzero(rows[:, 0] == segment)
            mapped = self._mapped(segment)
            pixels[places] = mapped[rows[places, 1]]
            _give_back(mapped)
        return pixels

    def iter_batches(self, batch_size: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (start, pixels uint8 (n, H, W, 3)) over all samples in their order, n at most `batch_size`."""
        for start in range(0, len(self), batch_size):
            yield start, self.gather(np.arange(start, min(start + batch_size, len(self))))

    def _mapped(self, segment: int) -> NDArray[np.uint8]:
        try:
            return self._open(self._segments[segment])
        except (OSError, ValueError) as error:
            raise CacheError(f"{self._segments[segment]} has gone or is damaged: {error}; scan again") from error


def _give_back(mapped: NDArray[np.uint8]) -> None:
    """Let the system have the pages of a memory map again: who reads all the pixels once need not hold them twice."""
    if isinstance(mapped.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.base.madvise(mmap.MADV_DONTNEED)


def build_store(
    segments: Sequence[Segment],
    prefixes: Sequence[str],
    *,
    image_size: tuple[int, int],
    class_names: Mapping[int, str] | None,
) -> PixelStore:
    """Return the store over segments.

    Args:
        segments: one per shard, in any order.
        prefixes: what each segment's keys begin with.
        image_size: canonical height and width.
        class_names: the source's names of the class numbers, where it knows them.
    """
    digests = np.concatenate([np.empty((0, DIGEST_BYTES), np.uint8), *(segment.digests for segment in segments)])
    labels = [label for segment in segments for label in segment.labels]
    counts = [len(segment.keys) for segment in segments]
    shards = [np.full(count, number, np.int32) for number, count in enumerate(counts)]
    places = [np.arange(count, dtype=np.int32) for count in counts]
    rows = np.concatenate([np.empty((0, 2), np.int32), *map(np.column_stack, zip(shards, places, strict=True))])
    shard_keys = [segment.keys for segment in segments]
    order = _order(digests, ShardKeys(shard_keys, prefixes, rows))
    rows = rows[order]
    table, indices = _classes(labels, class_names)
    return PixelStore(
        image_shape=(*image_size, 3),
        labels=indices[order],
        class_labels=table.labels,
        class_names=table.names,
        digests=digests[order],
        keys=ShardKeys(shard_keys, prefixes, rows),
        _segments=tuple(segment.path for segment in segments),
        _rows=rows,
        _open=lru_cache(maxsize=_OPEN_SEGMENTS)(open_pixels),
    )


def _order(digests: NDArray[np.uint8], keys: Sequence[str]) -> NDArray[np.int64]:
    """Return the indices (N,) that sort by digest, and equal digests by key."""
    order = digest_order(digests)
    ranked = digests[order]
    is_repeat = np.zeros(len(order) + 1, np.int8)
    is_repeat[1:-1] = (ranked[1:] == ranked[:-1]).all(1)
    # Each run of repeats begins one behind the first of its equals.
    for first, end in np.flatnonzero(np.diff(is_repeat)).reshape(-1, 2):
        order[first : end + 1] = sorted(order[first : end + 1], key=keys.__getitem__)
    return order


def _classes(
    labels: Sequence[int | str], class_names: Mapping[int, str] | None
) -> tuple[ClassTable, NDArray[np.int64]]:
    """Return the classes and the class index (N,) of each label."""
    known = dict(class_names or {})
    if all(isinstance(label, int) for label in labels):
        numbers: list[int] = sorted({int(label) for label in labels})
        table = ClassTable(tuple(numbers), tuple(known.get(number, str(number)) for number in numbers))
        place: dict[int | str, int] = {number: index for index, number in enumerate(numbers)}
        return table, np.array([place[label] for label in labels], np.int64)
    names = sorted({str(label) for label in labels})
    # A class that lost all its samples keeps its number, as it does for the trainer that counts folders.
    numbered = {name: number for number, name in known.items()}
    if not numbered.keys() >= set(names):
        numbered = {name: number for number, name in enumerate(names)}
    names.sort(key=numbered.__getitem__)
    table = ClassTable(tuple(numbered[name] for name in names), tuple(names))
    place = {name: index for index, name in enumerate(names)}
    return table, np.array([place[str(label)] for label in labels], np.int64)
