"""The header pass: the same members as Python's tarfile on whole archives, a word for every kind of damage."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbdguard.errors import ReadError
from vbdguard.sources import tar_members
from vbdguard.sources.tar_members import BLOCK, OtherMember, TarFile, iter_members, looks_like_tar


def archive(members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def files_of(data: bytes, is_wanted: Callable[[str], bool] = lambda _: True) -> Iterator[TarFile]:
    return (one for one in iter_members(io.BytesIO(data), is_wanted) if isinstance(one, TarFile))


def members_of(data: bytes) -> list[tuple[str, bytes | None]]:
    return [(one.name, one.data) for one in files_of(data)]


def names_and_reason(data: bytes) -> tuple[list[str], str]:
    names: list[str] = []
    try:
        for one in files_of(data):
            names.append(one.name)
    except ReadError as error:
        return names, error.reason
    return names, "whole"


THREE = [("a.jpg", b"x" * 700), ("b.jpg", b"y" * 512), ("c.jpg", b"")]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile_in_every_format(form: int) -> None:
    long = "deep/" * 30 + "name.jpg"
    members = [*THREE, (long, b"z"), ("ü/é.png", b"q")]
    assert members_of(archive(members, form)) == members


@given(
    st.lists(
        st.tuples(
            st.text(
                st.sampled_from("ab./\0\n é") | st.characters(exclude_categories=("Cs",)), min_size=1, max_size=140
            ),
            st.binary(max_size=1100),
        ),
        max_size=5,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
@settings(max_examples=60, deadline=None)
def test_any_archive_reads_as_tarfile_reads_it(members: list[tuple[str, bytes]], form: int) -> None:
    data = archive(members, form)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as tar:
        expected = [(info.name, tar.extractfile(info).read()) for info in tar if info.isreg()]  # type: ignore[union-attr]
    assert members_of(data) == expected


def test_links_folders_and_devices_are_passed_over() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("a.jpg")
            info.type, info.linkname = kind, "b.jpg"
            tar.addfile(info)
        info = tarfile.TarInfo("b.jpg")
        tar.addfile(info)
    assert members_of(buffer.getvalue()) == [("b.jpg", b"")]


def test_unwanted_content_is_not_read_into_memory() -> None:
    files = list(files_of(archive(THREE), lambda name: name == "b.jpg"))
    assert [(one.name, one.size, one.data is None) for one in files] == [
        ("a.jpg", 700, True),
        ("b.jpg", 512, False),
        ("c.jpg", 0, True),
    ]


def test_member_over_the_cap_is_named_without_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "MAX_MEMBER", 600)
    assert [(name, data is None) for name, data in members_of(archive(THREE))] == [
        ("a.jpg", True),
        ("b.jpg", False),
        ("c.jpg", False),
    ]


BODY = archive(THREE)
END_OF_MEMBERS = 3 * BLOCK + 2 * BLOCK + BLOCK  # three headers, 700 bytes in two blocks, 512 in one


@pytest.mark.parametrize(
    ("data", "seen", "reason"),
    [
        pytest.param(BODY[:1000], [], "truncated", id="inside content"),
        pytest.param(BODY[: 3 * BLOCK], ["a.jpg"], "truncated", id="at a member boundary"),
        pytest.param(BODY[: 3 * BLOCK + 100], ["a.jpg"], "truncated", id="inside a header"),
        pytest.param(BODY[:END_OF_MEMBERS], ["a.jpg", "b.jpg", "c.jpg"], "truncated", id="no end blocks"),
        pytest.param(BODY[: END_OF_MEMBERS + BLOCK], ["a.jpg", "b.jpg", "c.jpg"], "truncated", id="one end block"),
        pytest.param(b"", [], "truncated", id="empty file"),
        pytest.param(BODY + BODY, ["a.jpg", "b.jpg", "c.jpg"], "corrupt", id="second archive"),
        pytest.param(BODY + b"hidden", ["a.jpg", "b.jpg", "c.jpg"], "corrupt", id="trailing bytes"),
        pytest.param(
            BODY[: 3 * BLOCK] + bytes(1024) + BODY[3 * BLOCK :], ["a.jpg"], "corrupt", id="zeros in the middle"
        ),
        pytest.param(
            BODY[: 3 * BLOCK] + bytes(512) + BODY[3 * BLOCK :], ["a.jpg"], "corrupt", id="one zero block inside"
        ),
        pytest.param(
            BODY[: 3 * BLOCK] + b"X" + BODY[3 * BLOCK + 1 :], ["a.jpg"], "corrupt", id="header checksum in the middle"
        ),
        pytest.param(b"no tar at all" * 100, [], "corrupt", id="not a tar"),
    ],
)
def test_damage_is_named_after_what_came_before(data: bytes, seen: list[str], reason: str) -> None:
    assert names_and_reason(data) == (seen, reason)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_cut_passes_for_a_whole_archive(data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, END_OF_MEMBERS + 2 * BLOCK - 1))
    assert names_and_reason(BODY[:cut])[1] == "truncated"


def edited(data: bytes, change: Callable[[bytearray], None]) -> bytes:
    """Change the first header and give it a right checksum again."""
    block = bytearray(data[:BLOCK])
    change(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data[BLOCK:]


def test_negative_or_senseless_sizes_are_corrupt() -> None:
    def negative(block: bytearray) -> None:
        block[124:136] = b"\xff" * 12

    def senseless(block: bytearray) -> None:
        block[124:136] = b"0o17_7+1\0\0\0\0"

    assert names_and_reason(edited(BODY, negative)) == ([], "corrupt")
    assert names_and_reason(edited(BODY, senseless)) == ([], "corrupt")


@pytest.mark.parametrize("place", [100, 108, 116, 136, 329, 337])
def test_header_that_tarfile_takes_for_the_end_is_corrupt(place: int) -> None:
    """Found by fuzzing: it ends there without a word because of a mode or an owner that is no octal number."""
    second = 3 * BLOCK
    data = BODY[:second] + edited(BODY[second:], lambda block: block.__setitem__(slice(place, place + 7), b"0001288"))
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as tar:
        assert tar.getnames() == ["a.jpg"]
    assert names_and_reason(data) == (["a.jpg"], "corrupt")


def test_base_256_size_is_read() -> None:
    def change(block: bytearray) -> None:
        block[124:136] = b"\x80" + (700).to_bytes(11, "big")

    assert names_and_reason(edited(BODY, change)) == (["a.jpg", "b.jpg", "c.jpg"], "whole")


def others_of(data: bytes) -> list[tuple[str, str]]:
    return [
        (one.name, one.what) for one in iter_members(io.BytesIO(data), lambda _: True) if isinstance(one, OtherMember)
    ]


def test_gnu_sparse_member_is_told_apart_with_the_blocks_of_its_map() -> None:
    def change(block: bytearray) -> None:
        block[156:157] = b"S"
        block[482] = 1

    more, last = bytearray(BLOCK), bytes(BLOCK)
    more[504] = 1
    data = edited(BODY, change)
    data = data[:BLOCK] + bytes(more) + last + data[BLOCK:]
    assert names_and_reason(data) == (["b.jpg", "c.jpg"], "whole")
    assert others_of(data) == [("a.jpg", "sparse-file")]


def test_pax_sparse_member_is_told_apart_under_its_real_name() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("GNUSparseFile.0/a.jpg")
        info.size = 3
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.jpg"}
        tar.addfile(info, io.BytesIO(b"0\n\n"))
    assert others_of(buffer.getvalue()) == [("a.jpg", "sparse-file")]


@pytest.mark.parametrize(
    "records", [{"path": "x"}, {"size": "1"}, {"GNU.sparse.name": "x"}, {"GNU.sparse.realsize": "1"}]
)
def test_record_for_all_members_that_says_what_one_of_them_is_is_refused(records: dict[str, str]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=records) as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    assert names_and_reason(buffer.getvalue()) == ([], "corrupt")


def test_link_that_states_content_is_refused() -> None:
    """Readers that look for it see other members than those that do not (CVE-2025-62518 is of this kind)."""

    def change(block: bytearray) -> None:
        block[156:157] = b"1"

    assert names_and_reason(edited(BODY, change)) == ([], "corrupt")


def test_pax_size_before_another_extended_header_is_refused() -> None:
    """Readers do not agree which of the two headers behind it the size belongs to (CVE-2026-53655)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size, info.pax_headers = 3, {"size": "3"}
        tar.addfile(info, io.BytesIO(b"abc"))
    long = archive([("n" * 120, b"1")], tarfile.GNU_FORMAT)
    assert names_and_reason(buffer.getvalue()[: 2 * BLOCK] + long) == ([], "corrupt")


def test_name_that_no_system_knows_is_refused() -> None:
    assert names_and_reason(archive([("n" * 5000, b"1")])) == ([], "corrupt")


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "MAX_MEMBERS", 2)
    assert names_and_reason(BODY) == (["a.jpg", "b.jpg"], "too-many-members")


def test_oversized_extended_header_is_refused_before_it_is_read() -> None:
    def change(block: bytearray) -> None:
        block[156:157] = b"L"
        block[124:136] = b"77777777777\0"

    assert names_and_reason(edited(BODY, change)) == ([], "corrupt")


def test_member_that_is_a_file_to_one_reader_and_a_folder_to_another_is_refused() -> None:
    def change(block: bytearray) -> None:
        block[156:157] = b"\0"
        block[:6] = b"a.jpg/"

    assert names_and_reason(edited(BODY, change)) == ([], "corrupt")


def test_old_folder_is_passed_over() -> None:
    def change(block: bytearray) -> None:
        block[156:157] = b"\0"
        block[:6] = b"a.jpg/"

    empty = archive([("a.jpg", b""), ("b.jpg", b"")])
    assert names_and_reason(edited(empty, change)) == (["b.jpg"], "whole")


def test_pax_size_replaces_the_headers() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size, info.pax_headers = 3, {"size": "3", "comment": "x"}
        tar.addfile(info, io.BytesIO(b"abc"))
    assert members_of(buffer.getvalue()) == [("a.jpg", b"abc")]


def test_two_names_for_one_member_are_refused() -> None:
    long = archive([("n" * 120, b"1")], tarfile.GNU_FORMAT)
    pax = archive([("p" * 120, b"1")], tarfile.PAX_FORMAT)
    # GNU long name (header + one block), then the pax header (header + one block), then the member
    assert names_and_reason(long[: 2 * BLOCK] + pax) == ([], "corrupt")


def test_tar_is_told_by_magic_or_checksum() -> None:
    assert looks_like_tar(BODY)
    old = edited(BODY, lambda block: block.__setitem__(slice(257, 265), bytes(8)))
    assert looks_like_tar(old)
    assert not looks_like_tar(b"\x89PNG" * 200)
    assert not looks_like_tar(BODY[:300])


@given(st.binary(max_size=600))
def test_the_sum_of_bytes_is_that(data: bytes) -> None:
    assert tar_members._sum(data) == sum(data)


@pytest.mark.parametrize("count", [255, 256, 257, 512])
def test_the_sum_of_bytes_is_that_where_it_no_longer_fits_the_short_way(count: int) -> None:
    data = bytes(512 - count) + b"\xff" * count
    assert tar_members._sum(data) == 255 * count
