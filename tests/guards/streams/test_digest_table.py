"""The table of digests: exact, shared, and never silently another one."""

from __future__ import annotations

import pickle
from bisect import bisect_left
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vbdguard.cache import Cache
from vbdguard.errors import CacheError
from vbdguard.guards.digest_table import PASSES, UNKNOWN, DigestTable, LabelChange, _first_not_below
from vbdguard.ingest.digest import digest_order

CHANGE = LabelChange(old_label=1, old_name="bee", new_label=2, new_name="cat")
OTHER = LabelChange(old_label=1, old_name="bee", new_label=None, new_name=None)


def stacked(digests: list[bytes]) -> NDArray[np.uint8]:
    array = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    return array[digest_order(array)]


# Few different bytes, so that heads agree where tails do not.
DIGESTS = st.lists(st.binary(min_size=1, max_size=2).map(lambda seed: (seed * 32)[:31] + seed[-1:]), max_size=40)
COLLIDING = st.lists(st.integers(0, 5).map(lambda tail: bytes(8) + bytes([tail]) * 24), max_size=12)


@given(known=DIGESTS | COLLIDING, asked=DIGESTS | COLLIDING, flags=st.sets(st.integers(0, 11)))
@settings(max_examples=60, deadline=None)
def test_the_table_says_what_a_dictionary_says(
    tmp_path_factory: pytest.TempPathFactory, known: list[bytes], asked: list[bytes], flags: set[int]
) -> None:
    distinct = sorted(set(known))
    flagged = [digest for number, digest in enumerate(distinct) if number in flags]
    table = DigestTable.write(tmp_path_factory.mktemp("t"), stacked(known), [(digest, CHANGE) for digest in flagged])
    expected = dict.fromkeys(distinct, PASSES) | dict.fromkeys(flagged, 1)
    assert len(table) == len(distinct)
    for digest in asked + known:
        assert table.find(digest) == expected.get(digest, UNKNOWN)


def some(count: int = 100) -> NDArray[np.uint8]:
    return stacked([np.random.default_rng(number).bytes(32) for number in range(count)])


@pytest.fixture
def table(tmp_path: Path) -> DigestTable:
    digests = some()
    return DigestTable.write(
        tmp_path / "tables", digests, [(digests[3].tobytes(), OTHER), (digests[7].tobytes(), CHANGE)]
    )


def test_a_flag_leads_to_its_change_of_class(table: DigestTable) -> None:
    digests = some()
    assert table.changes[table.find(digests[3].tobytes()) - 1] == OTHER
    assert table.changes[table.find(digests[7].tobytes()) - 1] == CHANGE


def test_a_pickled_table_is_its_path(table: DigestTable) -> None:
    content = pickle.dumps(table)
    assert len(content) < 1000
    assert pickle.loads(content).find(some()[7].tobytes()) == table.find(some()[7].tobytes())


def test_the_same_content_is_one_file(table: DigestTable, tmp_path: Path) -> None:
    flagged = [(some()[3].tobytes(), OTHER), (some()[7].tobytes(), CHANGE)]
    assert DigestTable.write(tmp_path / "tables", some(), flagged).path == table.path
    assert [path.name for path in (tmp_path / "tables").iterdir()] == [table.identity]


@pytest.mark.parametrize("place", [0, 20, 60, -1])
def test_a_table_with_one_changed_byte_is_not_believed(table: DigestTable, place: int) -> None:
    content = bytearray(table.path.read_bytes())
    content[place] ^= 1
    aside = table.path.with_suffix(".aside")
    aside.write_bytes(content)
    aside.replace(table.path)
    with pytest.raises(CacheError, match="not the one that was written"):
        DigestTable(table.path, table.identity)


def test_a_table_that_was_cut_is_not_believed(table: DigestTable) -> None:
    aside = table.path.with_suffix(".aside")
    aside.write_bytes(table.path.read_bytes()[:-4])
    aside.replace(table.path)
    with pytest.raises(CacheError, match="not the one that was written"):
        DigestTable(table.path, table.identity)


def test_another_table_under_the_name_is_not_believed(table: DigestTable, tmp_path: Path) -> None:
    other = DigestTable.write(tmp_path / "other", some(50))
    other.path.replace(table.path)
    with pytest.raises(CacheError, match="not the one that was written"):
        pickle.loads(pickle.dumps(table))


def test_clearing_the_cache_stops_new_workers_and_not_those_that_run(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.prepare()
    table = DigestTable.write(cache.tables_dir, some())
    assert (cache.info().tables, cache.info().table_bytes) == (1, table.path.stat().st_size)
    worker = pickle.dumps(table)
    assert cache.clear().entries == 1
    assert not cache.tables_dir.exists()
    assert table.find(some()[5].tobytes()) == PASSES
    with pytest.raises(CacheError, match="must stay until training ends"):
        pickle.loads(worker)


def test_a_flag_on_something_that_was_not_scanned_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="among those scanned"):
        DigestTable.write(tmp_path, some(), [(bytes(32), CHANGE)])
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot write"):
        DigestTable.write(tmp_path / "file", some())


def test_the_search_finds_the_same_row_wherever_the_heads_lie() -> None:
    """Evenly spread heads as digests have, and lumps of them as somebody who makes the data could arrange."""
    rng = np.random.default_rng(0)
    spread = np.sort(rng.integers(0, 2**64, 5000, dtype=np.uint64))
    lumps = np.sort(np.concatenate([rng.integers(0, 1000, 2000, dtype=np.uint64), spread[-50:]]))
    for heads in (spread, lumps, spread[:1], spread[:0], np.zeros(9, np.uint64)):
        view = memoryview(heads)
        wanted = [*heads[:: max(1, len(heads) // 100)].tolist(), 0, 1, 2**63, 2**64 - 1]
        assert [_first_not_below(view, head) for head in wanted] == [
            bisect_left(heads.tolist(), head) for head in wanted
        ]
