"""The canonical image size of a data set whose user names none.

The headers of the first `PROBED_SAMPLES` readable images of every shard vote. Each size is scaled down to at most
`MAX_SIDE` on its longer side, the aspect ratio kept, each side at least `MIN_SIDE`. The longest side that a tenth of
the votes have or exceed is taken, so that nobody can hide a small trigger by adding smaller images, unless nine votes
in ten are his; and of the sizes with that side the most common one, the smaller on a tie. Every shard votes and the
votes are counted, so neither the order or the names of the shards nor the number of workers matter; only the first few
samples of each are opened, and none is decoded.
"""

from __future__ import annotations

from collections import Counter

from vbdguard.errors import ReadError, SourceError
from vbdguard.ingest.decode import image_size
from vbdguard.sources.base import Shard, Unreadable, exif_rule

PROBED_SAMPLES = 64
MAX_SIDE = 96
MIN_SIDE = 8
DEFAULT_SIZE = (32, 32)
"""Where no probed image has a readable header."""
_MINORITY = 0.1
"""Share of the votes that is enough for the longest side."""

Votes = Counter[tuple[int, int]]


def probe_sizes(shard: Shard) -> Votes:
    """Return how many of the shard's first images have which (height, width); none where it cannot be read."""
    votes: Votes = Counter()
    exif = exif_rule(shard)
    try:
        for entry in shard.read():
            if isinstance(entry, Unreadable):
                continue
            try:
                votes[image_size(entry.image, exif=exif)] += 1
            except ReadError:
                continue  # the pass over the whole shard reports it
            if votes.total() == PROBED_SAMPLES:
                break
    except SourceError:
        raise
    except Exception:  # whatever breaks on this shard, that pass meets it again and reports it
        return votes
    return votes


def canonical_size(votes: Votes) -> tuple[int, int]:
    """Return the height and width in pixels that the votes of all shards elect."""
    if not votes:
        return DEFAULT_SIZE
    scaled: Votes = Counter()
    for size, count in votes.items():
        scaled[_scaled(*size)] += count
    side = max(
        side
        for side in {max(size) for size in scaled}
        if sum(count for size, count in scaled.items() if max(size) >= side) >= _MINORITY * scaled.total()
    )
    candidates = (size for size in scaled if max(size) == side)
    return min(candidates, key=lambda size: (-scaled[size], size[0] * size[1], size))


def _scaled(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, MAX_SIDE / max(height, width))
    return max(MIN_SIDE, round(height * scale)), max(MIN_SIDE, round(width * scale))
