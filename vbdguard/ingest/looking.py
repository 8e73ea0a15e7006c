"""A look at a few samples of one shard, for an estimate of what reading all shards costs."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from vbdguard.errors import ReadError, SourceError
from vbdguard.ingest.decode import decode_images, image_size
from vbdguard.ingest.digest import sample_digest
from vbdguard.ingest.orientation import make_turner
from vbdguard.ingest.sizing import PROBED_SAMPLES, Votes, canonical_size
from vbdguard.sources.base import HashingShard, RawSample, Shard, Unreadable, exif_rule
from vbdguard.sources.files import file_size

READ_WHOLE = 32 << 20
"""Bytes of a file up to which it is read to its end, so that its samples are counted and not guessed."""


@dataclass(slots=True)
class ShardLook:
    """What a look has shown."""

    samples: int = 0
    """Entries that were seen."""
    image_bytes: int = 0
    """Bytes of their images, as stored."""
    is_whole: bool = False
    """Whether these are all."""
    size: int | None = None
    """Bytes of the file, where it is one."""
    decoded: int = 0
    """Samples that were hashed and decoded; the first ones."""
    seconds: float = 0.0
    """How long these took, from reading on."""
    labels: set[int | str] = field(default_factory=set)
    votes: Votes = field(default_factory=Counter)
    """As `vbdguard.ingest.sizing` counts them."""


def shard_bytes(shard: Shard) -> int | None:
    """Return the bytes of a shard that is a file, None where it is none or nobody tells."""
    if isinstance(shard, HashingShard):
        return shard.size()
    path = getattr(shard, "path", None)
    return file_size(path) if isinstance(path, str) else None


def look_at(shard: Shard, size: tuple[int, int] | None = None) -> ShardLook:
    """Return what the first samples of a shard show, or all of them where it is small.

    A shard that breaks shows what came before.

    Args:
        shard: the shard.
        size: canonical height and width; None takes the one that this shard would elect.

    Raises:
        SourceError: if a package for the format is missing.
    """
    found = ShardLook(size=shard_bytes(shard))
    at_most = None if found.size is not None and found.size <= READ_WHOLE else PROBED_SAMPLES
    first: list[RawSample] = []
    start = time.perf_counter()
    try:
        for entry in shard.read():
            _count(found, entry, first)
            if len(first) == PROBED_SAMPLES and not found.decoded:
                _decode(found, shard, first, size, start)
            if at_most is not None and found.samples >= at_most:
                break
        else:
            found.is_whole = True
    except SourceError:
        raise
    except Exception:  # the scan meets it again and reports it
        return found
    if not found.decoded:
        _decode(found, shard, first, size, start)
    return found


def _count(found: ShardLook, entry: RawSample | Unreadable, first: list[RawSample]) -> None:
    found.samples += 1
    if isinstance(entry, Unreadable):
        return
    found.image_bytes += len(entry.image) if isinstance(entry.image, bytes) else entry.image.nbytes
    found.labels.add(entry.label)
    if len(first) < PROBED_SAMPLES:
        first.append(entry)


def _decode(found: ShardLook, shard: Shard, first: list[RawSample], size: tuple[int, int] | None, start: float) -> None:
    """Do with the first samples what the scan does with all, but for writing the pixels."""
    for entry in first:
        try:
            found.votes[image_size(entry.image, exif=exif_rule(shard))] += 1
        except ReadError:
            continue
    for entry in first:
        sample_digest(entry.image, entry.label)
    decode_images([entry.image for entry in first], size or canonical_size(found.votes), make_turner(exif_rule(shard)))
    found.decoded = len(first)
    found.seconds = time.perf_counter() - start
