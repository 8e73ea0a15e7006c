"""A strict pass over the 512-byte headers of a tar stream.

Python's `tarfile` ends silently on a bad header, on zero blocks in the middle, on a second archive behind the
first and on a file that was cut at a member boundary: "read to its end" can mean "saw two of six members". This
pass names the members as `tarfile` does, because that is what trainers read with, and proves that the archive
ended where the file ends. Nothing is extracted; links, devices and sparse files are told apart from files, their
content is not read. Headers that readers understand in different ways are refused. Format: POSIX.1-1988 ustar,
POSIX.1-2001 pax, and the GNU long names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Protocol
from zlib import adler32

from vbdguard.errors import ReadError

BLOCK = 512
MAX_MEMBER = 128 << 20
"""Bytes of one member that are read into memory; the header's size is the attacker's word."""
MAX_HEADER_DATA = 1 << 20
"""Bytes of a long name or a pax header."""
MAX_NAME = 4096
"""Characters of a member's name: longer ones exist on no system, and a million of them would fill the memory."""
MAX_MEMBERS = 10_000_000
RECORD = 20 * BLOCK
"""What tar writes at least. An empty archive is so long; one that all members were cut out of, up to twice as long."""
_ZEROS = bytes(BLOCK)
_LAYOUT = Struct("100s8s8s8s12s12s8sc172x8s8s155s12x")
"""Of a header: name, mode, owner, group, size, time, checksum, kind, the two numbers of a device, and prefix."""
_SKIP = 1 << 20
_ADLER = 65_521

_OLD_REGULAR = b"\0"
_REGULAR = b"07" + _OLD_REGULAR
_FOLDER = b"5"
_EXTENDED = b"LKxXg"
"""Long names and links of GNU, records of pax: they speak of the member behind them."""
_WITHOUT_DATA = b"12346"
"""Links, devices and pipes: some readers look for data behind them where they state a size, others do not."""
_SPARSE = b"S"
_MORE_SPARSE, _MORE_SPARSE_BEHIND = 482, 504
"""Where a GNU sparse header, and each block that extends it, tells whether another one follows."""
_WHAT = {
    b"1": "link",
    b"2": "link",
    b"3": "device",
    b"4": "device",
    b"5": "folder",
    b"6": "pipe",
    _SPARSE: "sparse-file",
}


# The four below are not frozen: there are millions of them, and a frozen one takes three times as long to make.


@dataclass(slots=True)
class TarFile:
    """One regular file of an archive."""

    name: str
    size: int
    data: bytes | None
    """The content, or None where it was not wanted or is larger than `MAX_MEMBER`."""
    span: Span


@dataclass(slots=True)
class OtherMember:
    """A link, a device, a pipe, a folder, or a file whose content is not read as it stands: it holds no sample."""

    name: str
    what: str
    """"folder", "link", "device", "pipe", "sparse-file" or "unknown-member"."""
    span: Span

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, which all readers pass over."""
        return self.what == "folder"


@dataclass(slots=True)
class Span:
    """Where a member stands in the uncompressed stream, in bytes: all blocks of its headers and its content."""

    start: int
    content: int
    """Where the headers end."""
    end: int


class Readable(Protocol):
    """What a pass over headers needs of a stream."""

    def read(self, count: int, /) -> bytes:
        """Return `count` bytes, fewer at the end."""


@dataclass(slots=True)
class _Header:
    name: str
    size: int
    kind: bytes


class _Positioned:
    """A stream that knows how many bytes have been read from it."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.position = 0

    def read(self, count: int, /) -> bytes:
        data = self._stream.read(count)
        self.position += len(data)
        return data


def iter_members(stream: Readable, is_wanted: Callable[[str], bool]) -> Iterator[TarFile | OtherMember]:
    """Yield the members of an uncompressed tar stream in their order, then prove that it ended.

    Args:
        stream: positioned at the first header; read in order, never rewound.
        is_wanted: says by name which file's content to read.

    Raises:
        ReadError: "truncated", "corrupt" or "unsupported"; whatever was yielded before stands.
    """
    counted = _Positioned(stream)
    start = count = 0
    while (header := _next_member(counted)) is not None:
        padded = _padded(header.size)
        span = Span(start, counted.position, counted.position + padded)
        start = span.end
        count += 1
        if count > MAX_MEMBERS:
            raise ReadError("too-many-members", f"expected at most {MAX_MEMBERS} members; split the shard")
        if header.kind not in _REGULAR:
            _skip(counted, padded, header.name)
            yield OtherMember(header.name, _WHAT.get(header.kind, "unknown-member"), span)
            continue
        data = None
        if header.size <= MAX_MEMBER and is_wanted(header.name):
            data = _exactly(counted, padded, header.name)[: header.size]
        else:
            _skip(counted, padded, header.name)
        yield TarFile(header.name, header.size, data, span)
    _prove_end(counted)
    if not count and counted.position > 2 * RECORD:
        raise ReadError("corrupt", f"expected members, got {counted.position} zeros; was the file fetched as a whole?")


def looks_like_tar(block: bytes) -> bool:
    """Return whether the first 512 bytes of a file can be a tar header (or the end of an empty archive)."""
    return len(block) >= BLOCK and (block[257:262] == b"ustar" or _checksum_holds(block[:BLOCK], block[148:156]))


def _next_member(stream: Readable) -> _Header | None:
    """Read headers up to the next member, with its long names applied; None at the end-of-archive block."""
    header = _read_header(stream)
    is_plain = header is None or (header.kind in _REGULAR and not header.name.endswith("/"))
    return header if is_plain else _extended_member(stream, header)


def _extended_member(stream: Readable, header: _Header | None) -> _Header:
    """Return the member that `header` begins, read on past the headers that only speak of it."""
    extra: dict[str, str] = {}
    kinds: set[bytes] = set()
    while header is not None:
        if header.kind not in _EXTENDED:
            if "size" in extra and len(kinds - {b"g"}) > 1:
                raise ReadError("corrupt", "expected a pax size right before its member; readers would not agree on it")
            member = _apply(header, extra)
            if len(member.name) > MAX_NAME:
                raise ReadError("corrupt", f"expected a name of at most {MAX_NAME} characters, got {len(member.name)}")
            return member
        if header.kind in kinds:
            raise ReadError("corrupt", "expected a member behind its extended header, got two extended headers")
        kinds.add(header.kind)
        if header.size > MAX_HEADER_DATA:
            raise ReadError(
                "corrupt", f"expected an extended header of at most {MAX_HEADER_DATA} bytes, got {header.size}"
            )
        data = _exactly(stream, _padded(header.size), header.name)[: header.size]
        records = {"path": _text(data)} if header.kind == b"L" else {}
        if header.kind in b"xXg":
            records = _pax_records(data)
        is_global = header.kind == b"g"
        if (is_global and any(map(_is_telling, records))) or records.keys() & extra.keys() & {"path"}:
            raise ReadError("corrupt", "expected one name for each member, got several; readers would not agree on it")
        if not is_global:
            extra |= records
        header = _read_header(stream)
    raise ReadError("corrupt", "expected a member behind an extended header, got the end of the archive")


def _is_telling(record: str) -> bool:
    """Return whether a pax record says what or how large a member is, which no record for all members may."""
    return record in ("path", "size") or record.startswith("GNU.sparse.")


def _apply(header: _Header, extra: dict[str, str]) -> _Header:
    size = extra.get("size", str(header.size))
    if not (size.isascii() and size.isdigit() and len(size) < 20):
        raise ReadError("corrupt", f"expected a pax size in digits, got {size!r:.40}")
    if header.kind in _WITHOUT_DATA and int(size):
        raise ReadError(
            "corrupt", f"expected no content behind the {_WHAT[header.kind]} {header.name}, it states {int(size)} bytes"
        )
    if any(key.startswith("GNU.sparse.") for key in extra):
        name = extra.get("GNU.sparse.name", extra.get("path", header.name))
        return _Header(name, int(size), _SPARSE)
    if header.kind == _FOLDER:
        return _Header(extra.get("path", header.name), 0, header.kind)
    if header.kind == _OLD_REGULAR and header.name.endswith("/"):
        # Before there were types, a slash at the end made a folder. Readers disagree on whether a long name or
        # content behind it makes it a file after all.
        if header.size or "path" in extra:
            raise ReadError("corrupt", f"expected a file or a folder, {header.name} claims to be both")
        return _Header(header.name, 0, _FOLDER)
    return _Header(extra.get("path", header.name), int(size), header.kind)


def _read_header(stream: Readable) -> _Header | None:
    block = stream.read(BLOCK)
    if block == _ZEROS:
        return None
    if len(block) < BLOCK:
        what = f"the file ends {len(block)} bytes into a header" if block else "the file ends without them"
        raise ReadError("truncated", f"expected a member or two zero blocks as end of archive; {what}")
    name, mode, owner, group, size, time, checksum, kind, major, minor, prefix = _LAYOUT.unpack(block)
    # tarfile takes a header for the end of the archive if any of these is no number.
    are_numbers = all(map(_is_number, (mode, owner, group, time, major, minor)))
    if not are_numbers or not _checksum_holds(block, checksum):
        raise ReadError("corrupt", f"expected a tar header, got a block that begins with {block[:16]!r}")
    path = _text(name)
    if prefix[0] and kind not in (b"L", b"K", b"S"):
        path = f"{_text(prefix)}/{path}"
    if kind == _SPARSE and block[_MORE_SPARSE]:
        _skip_sparse_map(stream, path)
    return _Header(path, _number(size), kind)


def _skip_sparse_map(stream: Readable, name: str) -> None:
    for _ in range(MAX_HEADER_DATA // BLOCK):
        if not _exactly(stream, BLOCK, name)[_MORE_SPARSE_BEHIND]:
            return
    raise ReadError("corrupt", f"expected a map of at most {MAX_HEADER_DATA} bytes before {name}")


def _checksum_holds(block: bytes, checksum: bytes) -> bool:
    try:
        stated = _number(checksum)
    except ReadError:
        return False
    unsigned = _sum(block) - _sum(block[148:156]) + 8 * ord(" ")
    if stated == unsigned:
        return True
    # Some old writers summed signed bytes: each byte above 127 then counts 256 less.
    return stated == unsigned - 256 * sum(byte > 127 for byte in block[:148] + block[156:])


def _sum(data: bytes) -> int:
    """Return the sum of the bytes."""
    if (len(data) - data.count(0)) * 255 < _ADLER:
        return adler32(data) % 0x1_0000 - 1  # which is just that, modulo 65,521, in a tenth of the time
    return sum(data)


@lru_cache(maxsize=4096)
def _number(field: bytes) -> int:
    if field[0] == 0x80:  # base 256, for what octal digits cannot hold
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip() or b"0"
    # The digits first: int() alone would take signs, underscores and a leading 0o.
    if digits.strip(b"01234567"):
        raise ReadError("corrupt", f"expected an octal number in a tar header, got {field!r}")
    return int(digits, 8)


@lru_cache(maxsize=4096)
def _is_number(field: bytes) -> bool:
    if field[0] in (0x80, 0xFF):
        return True
    return not field.split(b"\0", 1)[0].strip().strip(b"01234567")


def _pax_records(data: bytes) -> dict[str, str]:
    """Parse `length key=value newline` records; `length` counts the whole record."""
    records: dict[str, str] = {}
    position = 0
    while position < len(data) and data[position]:
        space = data.find(b" ", position, position + 20)
        digits = data[position:space]
        end = position + int(digits) if space > 0 and digits.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or end > len(data) or data[end - 1 : end] != b"\n":
            raise ReadError("corrupt", f"expected a pax record, got {data[position : position + 32]!r}")
        if not key or min(key) < ord(" "):
            # Readers cut such a key, stop at it or keep it whole: a member would have two names.
            raise ReadError("corrupt", f"expected the name of a pax record, got {key[:32]!r}")
        # Unlike the fields of a header, a record is not cut at a NUL; a path loses the slash of a folder.
        text = value.decode("utf-8", "backslashreplace")
        records[_text(key)] = text.rstrip("/") if key == b"path" else text
        position = end
    return records


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _exactly(stream: Readable, count: int, name: str) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise ReadError("truncated", f"expected {count} bytes of {name}, the file ends after {len(data)}")
    return data


def _skip(stream: Readable, count: int, name: str) -> None:
    while count:
        count -= len(_exactly(stream, min(count, _SKIP), name))


def _prove_end(stream: Readable) -> None:
    """Read the rest of the stream, which must be the second zero block and zeros behind it."""
    second = stream.read(BLOCK)
    if len(second) < BLOCK:
        raise ReadError("truncated", "expected two zero blocks as end of archive, the file ends after the first")
    while second:
        if second.count(0) != len(second):
            raise ReadError(
                "corrupt",
                "expected nothing behind the end of the archive, got more data that trainers would not see; "
                "was a second archive appended? pack the shard anew",
            )
        second = stream.read(_SKIP)
