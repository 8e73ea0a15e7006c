"""Interleaved timing sees a slower way, and sees through a machine that slows down."""

from __future__ import annotations

import time

import pytest

from benchmarks.interleaved import Comparison, Times, compare


def test_ratios_are_of_neighbours_and_survive_a_machine_that_slows_down() -> None:
    # Each pair twice as slow as the one before; the guarded way always costs a quarter more.
    pairs = tuple((Times(2.0**turn, 1.0), Times(1.25 * 2.0**turn, 3.0)) for turn in range(5))
    found = Comparison(pairs)
    assert (found.wall.low, found.wall.median, found.wall.high) == (1.25, 1.25, 1.25)
    assert found.processor.median == 3.0
    assert found.plain_microseconds == 4e6


def test_the_order_alternates_after_a_warm_up_of_each() -> None:
    order: list[str] = []

    def epoch(name: str) -> int:
        order.append(name)
        return 1

    compare(lambda: epoch("plain"), lambda: epoch("guarded"), repeats=3)
    assert order == ["plain", "guarded", "plain", "guarded", "guarded", "plain", "plain", "guarded"]


def test_times_are_per_sample() -> None:
    def epoch(samples: int) -> int:
        time.sleep(0.02)
        return samples

    found = compare(lambda: epoch(1), lambda: epoch(100), repeats=2)
    assert found.wall.median < 0.5  # the same sleep shared among a hundred samples


@pytest.mark.parametrize(("repeats", "samples"), [(1, 5), (2, 0)])
def test_what_gives_no_figure_is_refused(repeats: int, samples: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        compare(lambda: samples, lambda: samples, repeats=repeats)
