"""A file on a web server that fails in every way there is: the same bytes, or an error that says why."""

from __future__ import annotations

import gzip
import os
import random
import time
from pathlib import Path

import pytest
from faulty_store import Faults, FaultyStore, serving

from vbdguard.errors import ReadError
from vbdguard.sources.http_file import HttpFile, http_size
from vbdguard.sources.retries import Retries

FAST = Retries(first_delay=0.01, max_delay=0.05, stall_timeout=1.0)
SIZE = 3 << 20
DATA = random.Random(3).randbytes(SIZE)
OTHER = random.Random(4).randbytes(SIZE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a.tar").write_bytes(DATA)
    os.utime(tmp_path / "a.tar", (1.7e9, 1.7e9))  # a file that has been at rest
    return tmp_path


def fetched(store: FaultyStore, name: str = "a.tar", retries: Retries = FAST) -> bytes:
    with HttpFile(f"{store.url}/{name}", retries) as file:
        return file.read() or b""


@pytest.mark.parametrize(
    "faults",
    [
        Faults(),
        Faults(drop=0.5),
        Faults(drop_after=300_000),
        Faults(drop_after=1_000_000, drops_left=3, ranges=False),
        Faults(drop_after=400_000, etag="none"),
        Faults(drop_after=1_000_000, drops_left=3, etag="none", modified=False),
        Faults(drop_after=1_000_000, drops_left=3, etag="weak"),
        Faults(drop_after=1_000_000, drops_left=3, etag="none", modified=False, ranges=False),
        Faults(stalls_left=2),
        Faults(throttle=0.005, drop=0.3),
        Faults(statuses=[503, 429, 500, 502, 504, 408]),
        Faults(length=False),
    ],
    ids=lambda faults: str(faults).replace(str(Faults()), "none"),
)
def test_the_bytes_are_those_of_the_file_whatever_fails(root: Path, faults: Faults) -> None:
    with serving(root, faults) as store:
        assert fetched(store) == DATA


def test_what_arrived_is_not_fetched_again(root: Path) -> None:
    with serving(root, Faults(drop_after=700_000)) as store:
        assert fetched(store) == DATA
        assert store.seen["requests"] >= 5
        # A break loses at most what lay in the sockets' buffers.
        assert store.sent < SIZE + store.seen["drops"] * 600_000
        later = [headers for headers in store.headers if "Range" in headers]
        assert later
        assert all(headers["If-Range"].startswith('"') for headers in later)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("marks", [{}, {"etag": "weak"}, {"etag": "none"}, {"etag": "none", "modified": False}])
def test_a_file_that_is_replaced_is_never_a_mixture(root: Path, marks: dict[str, object], ranges: bool) -> None:
    def replace(number: int) -> None:
        if number == 2:
            (root / "a.tar").write_bytes(OTHER)

    faults = Faults(drop_after=1_000_000, drops_left=1, ranges=ranges, on_request=replace, **marks)  # type: ignore[arg-type]
    with serving(root, faults) as store, HttpFile(f"{store.url}/a.tar", FAST) as file:
        with pytest.raises(ReadError, match="changed"):
            file.read()
        with pytest.raises(ReadError, match="changed"):  # and it stays so
            file.read(1)


def test_a_file_that_became_shorter_has_changed(root: Path) -> None:
    def cut(number: int) -> None:
        if number == 2:
            (root / "a.tar").write_bytes(DATA[:1_000_000])

    faults = Faults(drop_after=2_000_000, drops_left=1, on_request=cut)
    with serving(root, faults) as store, pytest.raises(ReadError, match="changed"):
        fetched(store)


def test_retry_after_is_kept_to_and_has_a_limit(root: Path) -> None:
    with serving(root, Faults(statuses=[503], retry_after="1")) as store:
        start = time.monotonic()
        assert fetched(store) == DATA
        assert time.monotonic() - start >= 1
        store.faults.statuses, store.faults.retry_after = [429], "86400"
        start = time.monotonic()
        assert fetched(store, retries=Retries(first_delay=0, max_retry_after=0.1)) == DATA
        assert time.monotonic() - start < 5


@pytest.mark.parametrize(("status", "words"), [(404, "no such file"), (403, "signed URL"), (401, "credentials")])
def test_a_refusal_is_final_and_says_what_to_do(root: Path, status: int, words: str) -> None:
    with serving(root, Faults(statuses=[status])) as store:
        with pytest.raises(ReadError, match=f"io-error.*answered {status}.*{words}"):
            fetched(store)
        assert store.seen["requests"] == 1


def test_a_server_that_keeps_failing_is_given_up(root: Path) -> None:
    with serving(root, Faults(drop=1.0)) as store:
        with pytest.raises(ReadError, match="io-error.*gave up behind byte [0-9]+ after"):
            fetched(store, retries=Retries(attempts=3, total=6, first_delay=0.01))
        assert 3 <= store.seen["requests"] <= 12  # aiohttp itself asks once more where a kept connection was closed


def test_a_server_that_lets_little_through_each_time_is_given_up_too(root: Path) -> None:
    with serving(root, Faults(drop_after=1000)) as store:
        with pytest.raises(ReadError, match=r"gave up.*\(20 in all\)"):
            fetched(store, retries=Retries(attempts=100, total=20, first_delay=0))
        assert 20 <= store.seen["requests"] <= 40


def test_a_server_that_stalls_each_time_is_given_up(root: Path) -> None:
    (root / "a.tar").write_bytes(b"x")  # half of which is nothing
    with serving(root, Faults(stalls_left=99)) as store:
        start = time.monotonic()
        with pytest.raises(ReadError, match="sent nothing for too long"):
            fetched(store, retries=Retries(attempts=2, first_delay=0, stall_timeout=0.2))
        assert time.monotonic() - start < 5


def test_nobody_listening_is_said_so(root: Path) -> None:
    with serving(root) as store:
        url = store.url
    with pytest.raises(ReadError, match="io-error.*the connection broke"):
        HttpFile(f"{url}/a.tar", Retries(attempts=2, first_delay=0))


def test_bytes_that_the_server_packs_are_refused(root: Path) -> None:
    with serving(root, Faults(encoding="gzip")) as store:
        with pytest.raises(ReadError, match="Content-Encoding 'gzip'"):
            fetched(store)
        assert store.headers[0]["Accept-Encoding"] == "identity"


def test_a_packed_file_that_is_declared_as_packed_comes_as_it_lies_there(root: Path) -> None:
    packed = gzip.compress(DATA)
    (root / "a.tar.gz").write_bytes(packed)
    with serving(root, Faults(encoding="x-gzip")) as store:
        assert fetched(store, "a.tar.gz") == packed


def test_a_file_that_is_replaced_under_its_date_is_told_by_its_bytes(root: Path) -> None:
    def replace(number: int) -> None:
        if number == 2:
            (root / "a.tar").write_bytes(OTHER)
            os.utime(root / "a.tar", (1.7e9, 1.7e9))

    faults = Faults(drop_after=1_000_000, drops_left=1, etag="none", ranges=False, on_request=replace)
    with serving(root, faults) as store, pytest.raises(ReadError, match="changed: .*other bytes came"):
        fetched(store)


def test_places_in_the_file_are_found(root: Path) -> None:
    with serving(root, Faults(drop=0.2)) as store, HttpFile(f"{store.url}/a.tar", FAST) as file:
        assert file.seek(-10, 2) == SIZE - 10
        assert file.read(100) == DATA[-10:]
        for start in (1_500_000, 10, 2_900_000, 2_900_010, SIZE + 5):
            file.seek(start)
            assert file.read(50) == DATA[start : start + 50]
        assert file.tell() == SIZE + 5


def test_places_are_found_on_servers_without_ranges_too(root: Path) -> None:
    with serving(root, Faults(ranges=False)) as store, HttpFile(f"{store.url}/a.tar", FAST) as file:
        for start in (2_500_000, 10):
            file.seek(start)
            assert file.read(50) == DATA[start : start + 50]


def test_size_is_told_where_the_server_tells_it(root: Path) -> None:
    with serving(root, Faults(statuses=[503])) as store:
        assert http_size(f"{store.url}/a.tar", FAST) == SIZE
        store.faults.length = False
        assert http_size(f"{store.url}/a.tar", FAST) is None


@pytest.mark.parametrize("token", ["5ecre7x", "wrong5ecre7"])
def test_no_message_holds_a_signature(root: Path, token: str) -> None:
    with serving(root, Faults(token="5ecre7x", drop=1.0)) as store:
        with pytest.raises(ReadError) as failure:
            HttpFile(f"{store.url}/a.tar?token={token}", Retries(attempts=2, first_delay=0)).read()
        assert "5ecre7" not in f"{failure.value!r} {failure.value.detail}"
        assert "/a.tar" in failure.value.detail
