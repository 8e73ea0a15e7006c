"""One file, local or behind a URL: hashing, sniffing, naming."""

from __future__ import annotations

import io
from pathlib import Path

import fsspec
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from vbdguard.errors import ReadError, SourceError
from vbdguard.sources.files import BLOCK, HashingReader, file_bytes, file_digest, file_size, head, short_names


def test_digest_of_a_large_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * (BLOCK // 128)
    (tmp_path / "f").write_bytes(data)
    assert file_digest(str(tmp_path / "f")) == blake3(data).hexdigest()


def test_url_and_file_have_one_digest(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    with fsspec.open("memory://digest/f", "wb") as file:
        file.write(b"abc")
    assert file_digest("memory://digest/f") == file_digest(str(tmp_path / "f"))
    assert head("memory://digest/f", 2) == b"ab"


def test_what_is_missing_is_an_io_error(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="io-error"):
        file_digest(str(tmp_path / "gone"))
    with pytest.raises(ReadError, match="io-error"):
        head("memory://digest/gone")


def test_unknown_kind_of_url_is_a_source_error() -> None:
    with pytest.raises(SourceError, match="cannot open this kind of URL"):
        head("nosuchthing://a/b.tar")


@given(st.binary(max_size=2000), st.lists(st.integers(1, 600), max_size=8))
def test_hashing_reader_hashes_what_was_read(data: bytes, reads: list[int]) -> None:
    with HashingReader(io.BytesIO(data)) as stream:
        seen = b"".join(stream.read(count) or b"" for count in reads)
        assert data.startswith(seen)
        assert stream.hexdigest() == blake3(seen).hexdigest()


def test_names_are_short_where_they_tell_the_files_apart() -> None:
    assert short_names(["/x/a.tar", "/y/b.tar"]) == ["a.tar", "b.tar"]
    assert short_names(["/r/x/a.tar", "/r/y/a.tar", "/r/y/b.tar"]) == ["x/a.tar", "y/a.tar", "y/b.tar"]
    assert short_names(["s3://one/x/a.tar", "s3://one/y/a.tar"]) == ["x/a.tar", "y/a.tar"]
    assert short_names(["/only/a.tar"]) == ["a.tar"]
    assert short_names(["x/a.tar", "y/a.tar"]) == ["x/a.tar", "y/a.tar"]


def test_one_shard_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "link.tar").symlink_to(tmp_path / "a.tar")
    with pytest.raises(SourceError, match="named twice"):
        short_names([str(tmp_path / "a.tar"), str(tmp_path / "link.tar")])


def test_size_and_content_of_files_and_urls(tmp_path: Path) -> None:
    import fsspec

    (tmp_path / "f").write_bytes(b"abc")
    fsspec.filesystem("memory").pipe("/size/f", b"abcd")
    assert (file_size(str(tmp_path / "f")), file_bytes(str(tmp_path / "f"))) == (3, b"abc")
    assert (file_size("memory://size/f"), file_bytes("memory://size/f")) == (4, b"abcd")


def test_the_size_of_what_is_not_there_is_unknown_and_its_content_an_io_error(tmp_path: Path) -> None:
    assert file_size(str(tmp_path / "gone")) is None
    assert file_size("memory://size/gone") is None
    with pytest.raises(ReadError, match="io-error"):
        file_bytes(str(tmp_path / "gone"))
