"""The canonical image size of a data set whose user names none.

The headers of the first `PROBED_SAMPLES` readable images of every shard vote. Each size is scaled down to at most
`MAX_SIDE` on its longer side, the aspect ratio kept, each side at least `MIN_SIDE`. The most common (height, width)
wins, the smaller one on a tie. Where a tenth of the votes are larger, height and width are raised to three quarters of
theirs: small images that somebody adds cannot make a patch in the others vanish, unless nine votes in ten are his.
Every shard votes and the votes are counted, so neither the order or the names of the shards nor the number of workers
matter; only the first few samples of each are opened, and none is decoded.
"""

from __future__ import annotations

import math
from collections import Counter

from vbdguard.errors import ReadError, SourceError
from vbdguard.ingest.decode import image_size
from vbdguard.sources.base import Shard, Unreadable, exif_rule

PROBED_SAMPLES = 64
MAX_SIDE = 96
MIN_SIDE = 8
DEFAULT_SIZE = (32, 32)
"""Where no probed image has a readable header."""
_MINORITY, _LEAST_PART = 0.1, 0.75
"""Share of the votes that are not to be reduced to less than a part of their height or width."""

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
    height, width = min(scaled, key=lambda size: (-scaled[size], size[0] * size[1], size))
    return max(height, _least(scaled, 0)), max(width, _least(scaled, 1))


def _least(votes: Votes, axis: int) -> int:
    """Return the least height (axis 0) or width (axis 1) that does not reduce a tenth of the votes too far."""
    enough = _MINORITY * votes.total()
    reached = (
        side
        for side in {size[axis] for size in votes}
        if sum(n for size, n in votes.items() if size[axis] >= side) >= enough
    )
    return math.ceil(_LEAST_PART * max(reached))


def _scaled(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, MAX_SIDE / max(height, width))
    return max(MIN_SIDE, round(height * scale)), max(MIN_SIDE, round(width * scale))
