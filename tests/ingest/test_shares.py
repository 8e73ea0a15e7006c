"""Shares of a data set's shards: each shard in one of them, by names alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbdguard.errors import ConfigError
from vbdguard.ingest.shares import Share

NAMES = st.lists(st.text(max_size=3), unique=True, max_size=12)


@settings(max_examples=60, deadline=None)
@given(names=NAMES, count=st.integers(1, 15), order=st.randoms(use_true_random=False))
def test_the_shares_of_any_number_hold_each_shard_once_whatever_the_order(
    names: list[str], count: int, order: object
) -> None:
    shares = [[names[place] for place in Share(number, count).places(names)] for number in range(1, count + 1)]
    assert sorted(name for share in shares for name in share) == sorted(names)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    mixed = sorted(names, key=lambda name: order.random())  # type: ignore[attr-defined]
    for number, share in enumerate(shares, 1):
        assert {mixed[place] for place in Share(number, count).places(mixed)} == set(share)


def test_a_share_is_every_nth_shard_by_name() -> None:
    assert Share(2, 3).places(["e", "d", "c", "b", "a"]) == [0, 3]  # of a b c d e: b and e
    assert Share().places(["b", "a"]) == [0, 1]


def test_i_of_n_reads_and_writes_itself() -> None:
    assert Share.parse("3/8") == Share(3, 8)
    assert str(Share(3, 8)) == "3/8"


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1/3 ", "١/٣"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a share i/N with i from 1 to N, such as 1/8"):
        Share.parse(text)
