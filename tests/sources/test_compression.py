"""Compressed streams: unpacked alike whatever the packer, within limits that a bomb meets."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
from collections import deque
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from vbdguard.errors import ReadError, SourceError
from vbdguard.sources.compression import COMPRESSIONS, UnpackingReader, compression_of

Pack = Callable[[bytes], bytes]
PACKERS: dict[str, Pack] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
}
by_packer = pytest.mark.parametrize("name", PACKERS)


def unpacked(data: bytes) -> bytes:
    compression = compression_of(data)
    assert compression is not None
    return io.BufferedReader(UnpackingReader(io.BytesIO(data), compression), 1000).read()


def reason(data: bytes) -> str:
    with pytest.raises(ReadError) as caught:
        unpacked(data)
    return caught.value.reason


@by_packer
@given(st.binary(max_size=5000), st.integers(0, 3000))
@settings(max_examples=25, deadline=None)
def test_what_was_packed_comes_out(name: str, data: bytes, zeros: int) -> None:
    content = data + bytes(zeros) + data
    packed = PACKERS[name](content)
    assert unpacked(packed) == content
    assert compression_of(packed) == next(one for one in COMPRESSIONS if one.name == name)


@by_packer
def test_own_writer_gives_the_same_bytes_each_time(name: str) -> None:
    compression = next(one for one in COMPRESSIONS if one.name == name)
    written = []
    for _ in range(2):
        file = io.BytesIO()
        with compression.packed(file) as stream:
            stream.write(b"content" * 100)
        written.append(file.getvalue())
    assert written[0] == written[1]
    assert unpacked(written[0]) == b"content" * 100


@by_packer
@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_no_cut_passes_for_a_whole_stream(name: str, place: int) -> None:
    packed = PACKERS[name](bytes(range(256)) * 40)
    cut = max(8, place % len(packed))
    assert reason(packed[:cut]) == "truncated"


@by_packer
def test_what_stands_behind_the_stream_is_refused(name: str) -> None:
    packed = PACKERS[name](b"one")
    assert reason(packed + packed) == "several-streams"
    assert reason(packed + b"\0") == "several-streams"


@by_packer
def test_bomb_is_refused_before_it_is_unpacked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbdguard.sources.compression.ALLOWANCE", 1 << 20)
    packed = PACKERS[name](bytes(8 << 20))
    stream = UnpackingReader(io.BytesIO(packed), compression_of(packed))  # type: ignore[arg-type]
    blocks = iter(lambda: stream.read(1 << 16), b"")
    # A packed piece counts as a whole: of the smallest bomb that is all of it at once.
    with pytest.raises(ReadError, match="bomb"):
        deque(blocks, maxlen=0)
    assert stream.unpacked < 4 << 20


def test_stream_that_asks_for_much_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 29}]
    # The header alone asks for it: no such memory is taken to write the test.
    small = lzma.compress(b"x" * 100, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}])
    coded = lzma._encode_filter_properties(filters[0])  # type: ignore[attr-defined]
    plain = lzma._encode_filter_properties(filters[0] | {"dict_size": 1 << 20})  # type: ignore[attr-defined]
    header = bytearray(small[12:24])
    header[header.index(plain, 2)] = coded[0]
    import zlib

    header[-4:] = zlib.crc32(bytes(header[:-4])).to_bytes(4, "little")
    assert reason(small[:12] + bytes(header) + small[24:]) == "corrupt"


def test_without_zstandard_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = zstandard.compress(b"x")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(SourceError, match=r"pip install 'vbdguard\[zstd\]'"):
        unpacked(packed)
