"""Keys held as bytes are the keys that went in."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbdguard.ingest.keys import PackedKeys, ShardKeys

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=4)
"""Surrogates too: file names may hold them."""


@given(st.lists(ANY_TEXT, max_size=8))
def test_packed_keys_are_the_keys(keys: list[str]) -> None:
    packed = PackedKeys(iter(keys))
    assert list(packed) == keys
    assert packed == keys
    assert packed == tuple(keys)
    assert len(packed) == len(keys)
    assert packed[1:] == tuple(keys[1:])
    assert packed[::-2] == tuple(keys[::-2])
    assert packed != [*keys, "x"]


def test_a_place_counts_from_either_end_and_has_to_be_there() -> None:
    packed = PackedKeys(["a", "bc", ""])
    assert (packed[0], packed[-2], packed[np.int64(2)]) == ("a", "bc", "")
    for index in (3, -4):
        with pytest.raises(IndexError):
            packed[index]


def test_keys_are_no_text_and_unlike_other_keys() -> None:
    assert PackedKeys(["a", "b"]) != "ab"
    assert PackedKeys(["a", "b"]) != ["a", "c"]
    assert "b" in PackedKeys(["a", "b"])


def test_keys_of_shards_bear_their_prefixes_in_the_order_of_the_rows() -> None:
    rows = np.array([[1, 0], [0, 1], [1, 0]], np.int32)
    keys = ShardKeys([PackedKeys(["a", "b"]), ["c"]], ["x/", ""], rows)
    assert keys == ["c", "x/b", "c"]
    assert keys[1:] == ("x/b", "c")


def test_packed_keys_take_a_third_of_the_memory() -> None:
    def held(make: type) -> int:
        tracemalloc.start()
        kept = make(f"/sample_{number:07d}" for number in range(10_000))
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(kept) == 10_000
        return size

    assert held(PackedKeys) < held(tuple) / 3
