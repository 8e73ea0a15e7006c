"""The canonical size: the most common one that leaves others large enough, whatever the order of the shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbdguard.errors import ReadError, SourceError
from vbdguard.ingest.sizing import DEFAULT_SIZE, MAX_SIDE, MIN_SIDE, PROBED_SAMPLES, canonical_size, probe_sizes
from vbdguard.sources.base import RawSample, Unreadable

SIZES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@dataclass
class Given:
    """A shard of given entries, which counts how many were taken."""

    entries: list[RawSample | Unreadable | Exception]
    name: str = "given"
    taken: int = 0

    def digest(self) -> None:
        return None

    def read(self) -> Iterator[RawSample | Unreadable]:
        for entry in self.entries:
            self.taken += 1
            if isinstance(entry, Exception):
                raise entry
            yield entry


def image(height: int, width: int) -> RawSample:
    return RawSample("k", np.zeros((height, width, 3), np.uint8), 0)


@pytest.mark.parametrize(
    ("votes", "size"),
    [
        ({(32, 32): 5}, (32, 32)),
        ({(32, 32): 5, (28, 28): 6}, (28, 28)),
        ({(32, 32): 5, (28, 28): 5}, (28, 28)),
        ({(32, 32): 10, (8, 8): 90}, (24, 24)),
        ({(32, 32): 9, (8, 8): 91}, (8, 8)),
        ({(32, 32): 50, (8, 96): 50}, (24, 96)),
        ({(500, 375): 2, (375, 500): 8}, (72, 96)),
        ({(500, 375): 3, (375, 500): 4, (400, 400): 2, (10, 10): 5}, (72, 72)),
        ({(20, 40): 1, (40, 20): 1}, (30, 40)),
        ({(375, 500): 1}, (72, 96)),
        ({(500, 375): 1}, (96, 72)),
        ({(2000, 20): 1}, (96, 8)),
        ({(4, 4): 1}, (8, 8)),
        ({}, DEFAULT_SIZE),
    ],
)
def test_the_most_common_size_wins_if_it_leaves_others_large_enough(
    votes: dict[tuple[int, int], int], size: tuple[int, int]
) -> None:
    assert canonical_size(Counter(votes)) == size


@given(st.lists(st.tuples(st.integers(30, 90), st.integers(30, 90)), min_size=1), st.integers(8, 30))
def test_added_images_leave_the_others_three_quarters(sizes: list[tuple[int, int]], side: int) -> None:
    for added in ((side, side), (8, 96), (96, 8)):
        elected = canonical_size(Counter(sizes) + Counter({added: 8 * len(sizes)}))
        for axis in (0, 1):
            assert elected[axis] >= 0.75 * min(size[axis] for size in sizes)


@given(st.lists(SIZES, min_size=1), st.randoms())
def test_size_ignores_order_and_stays_in_bounds(sizes: list[tuple[int, int]], random: object) -> None:
    elected = canonical_size(Counter(sizes))
    random.shuffle(sizes)  # type: ignore[attr-defined]
    assert canonical_size(Counter(sizes)) == elected
    assert all(MIN_SIDE <= side <= MAX_SIDE for side in elected)


def test_only_readable_images_vote_and_only_the_first_are_opened() -> None:
    broken = [Unreadable("k", "no-label", ""), RawSample("k", b"no image", 0)]
    shard = Given([*broken, *(image(10, 12) for _ in range(200))])
    assert probe_sizes(shard) == Counter({(10, 12): PROBED_SAMPLES})
    assert shard.taken == PROBED_SAMPLES + 2


def test_shard_that_breaks_keeps_the_votes_before_it() -> None:
    for error in (ReadError("io-error", "gone"), ZeroDivisionError("a bug in a library")):
        assert probe_sizes(Given([image(9, 9), error])) == Counter({(9, 9): 1})


def test_missing_package_is_not_swallowed() -> None:
    with pytest.raises(SourceError):
        probe_sizes(Given([SourceError("pip install it")]))
