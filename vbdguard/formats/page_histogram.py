"""The histogram of a class's scores, as the HTML page draws it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from vbdguard.report import SCORE_BINS, ClassReport, FlaggedSample

HEIGHT = 100
"""Of a full bar, in the units of the drawing."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin: how many flagged and kept samples score there."""

    bounds: str
    flagged: int
    kept: int
    flagged_height: float
    """0 to `HEIGHT`, on a logarithmic scale."""
    kept_height: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """The scores of one class."""

    bars: tuple[Bar, ...]
    largest: int
    """What a full bar stands for."""
    has_kept: bool
    """Whether the report knows the scores of the kept samples."""
    words: str
    """The histogram for whoever cannot see it."""


def histogram(entry: ClassReport, flagged: Iterable[FlaggedSample]) -> Histogram:
    """Return the histogram of a class.

    Args:
        entry: the class, with the counts of its kept samples.
        flagged: its flagged samples.
    """
    counts = [0] * SCORE_BINS
    for sample in flagged:
        counts[min(SCORE_BINS - 1, int(sample.score * SCORE_BINS))] += 1
    kept = entry.kept_scores or (0,) * SCORE_BINS
    largest = max(1, *counts, *kept)
    bars = tuple(
        Bar(f"{i / SCORE_BINS:.2f} to {(i + 1) / SCORE_BINS:.2f}", *pair, *(_height(n, largest) for n in pair))
        for i, pair in enumerate(zip(counts, kept, strict=True))
    )
    words = [f"Flagged samples score {_range(counts)}"]
    if entry.kept_scores is not None:
        words.append(f"kept samples score {_range(entry.kept_scores)}" if any(kept) else "no sample was kept")
    return Histogram(bars, largest, entry.kept_scores is not None, "; ".join(words) + ".")


def _height(count: int, largest: int) -> float:
    return round(HEIGHT * math.log1p(count) / math.log1p(largest), 1)


def _range(counts: Iterable[int]) -> str:
    filled = [index for index, count in enumerate(counts) if count]
    if not filled:
        return "nowhere"
    return f"{filled[0] / SCORE_BINS:.2f} to {(filled[-1] + 1) / SCORE_BINS:.2f}"
