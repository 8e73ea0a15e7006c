"""Two ways to do the same work, timed in turn in one process: what slows the machine slows both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

Epoch = Callable[[], int]
"""Runs through all data once and returns how many samples came out."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds per sample of one epoch."""

    wall: float
    processor: float
    """Of this process alone, its workers not counted."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """The second way's time per sample over the first's, of pairs of epochs that ran one after the other."""

    median: float
    low: float
    """Lower quartile."""
    high: float
    """Upper quartile."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What interleaved epochs gave."""

    pairs: tuple[tuple[Times, Times], ...]
    """Plain and guarded, in the order in which they ran."""

    @property
    def wall(self) -> Ratio:
        """By the clock: what a user feels."""
        return _ratio([(plain.wall, guarded.wall) for plain, guarded in self.pairs])

    @property
    def processor(self) -> Ratio:
        """By this process's processor time: less stirred by what else runs; says nothing of workers."""
        return _ratio([(plain.processor, guarded.processor) for plain, guarded in self.pairs])

    @property
    def plain_microseconds(self) -> float:
        """Median of the plain epochs, per sample."""
        return 1e6 * median(plain.wall for plain, _ in self.pairs)


def compare(plain: Epoch, guarded: Epoch, *, repeats: int) -> Comparison:
    """Return the times of both ways, one warm-up each left out.

    Args:
        plain: an epoch without the guard.
        guarded: the same through it.
        repeats: pairs of epochs; every other pair runs in the other order. At least 2.

    Raises:
        ValueError: if there are fewer than two repeats, or an epoch yields nothing.
    """
    if repeats < 2:
        raise ValueError(f"expected at least 2 repeats, got {repeats}: there would be no spread")
    _timed(plain)
    _timed(guarded)
    pairs = []
    for turn in range(repeats):
        if turn % 2:
            second = _timed(guarded)
            pairs.append((_timed(plain), second))
        else:
            first = _timed(plain)
            pairs.append((first, _timed(guarded)))
    return Comparison(tuple(pairs))


def _timed(epoch: Epoch) -> Times:
    wall, processor = time.perf_counter(), time.process_time()
    samples = epoch()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    if not samples:
        raise ValueError("expected an epoch of at least one sample, got none")
    return Times(wall / samples, processor / samples)


def _ratio(pairs: list[tuple[float, float]]) -> Ratio:
    ratios = [guarded / plain for plain, guarded in pairs]
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return Ratio(middle, low, high)
