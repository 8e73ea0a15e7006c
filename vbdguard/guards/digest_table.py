"""Which digests pass: a sorted table in one file that all processes of a training map and share.

    8 bytes           the format and its version
    32 bytes          BLAKE3 of all that follows; also the file's name and what a pickled table is known by
    8 bytes           length of the JSON text behind it
    JSON, padded      {"rows": N, "changes": [[old label, old name, new label, new name], ...]}
    8 N bytes         heads: the first eight bytes of each digest as a number, ascending
    24 N bytes        tails: the rest of each digest
    4 N bytes         marks: 0 passes, n is flagged with changes[n - 1]

36 bytes a sample; ten million samples are 360 MB that the machine holds once, however many workers map them. Python
sets of the same digests take 1.2 GB in each process. A mapped file outlives its removal, so `vbdguard cache clear`
stops only workers that start afterwards; they must not run unguarded, so they raise.
"""

from __future__ import annotations

import json
import mmap
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from math import isqrt
from pathlib import Path
from secrets import token_hex
from struct import pack, unpack_from
from typing import Any, BinaryIO, Self

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from vbdguard.errors import CacheError
from vbdguard.ingest.digest import DIGEST_BYTES

PASSES = 0
UNKNOWN = -1

_MAGIC = b"VBDTABL1"
_PREFIX = 48
"""Bytes in front of the JSON."""
_HEAD = 8
_TAIL = DIGEST_BYTES - _HEAD
_MARK = 4
_BLOCK = 1 << 16
"""Rows that are written at once."""
_READ = 1 << 22


@dataclass(frozen=True, slots=True)
class LabelChange:
    """What a flagged sample is, and what the scan suggests instead, as number and as name."""

    old_label: int
    old_name: str
    new_label: int | None
    """None where the scan suggests no other class."""
    new_name: str | None


class DigestTable:
    """The digests that a scan has seen, mapped read-only; picklable as its path.

    Args:
        path: the file.
        identity: hex BLAKE3 that the file's content must have.

    Raises:
        CacheError: if the file has gone or is not the one that was written.
    """

    __slots__ = ("_heads", "_marks", "_rows", "_tails", "changes", "identity", "path")

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.identity = identity
        view = _verified(path, identity)
        try:
            body = json.loads(bytes(view[_PREFIX : _PREFIX + _json_length(view)]))
            self.changes = tuple(LabelChange(*entry) for entry in body["changes"])
            self._rows: int = body["rows"]
            heads, tails, marks = _sections(_PREFIX + _json_length(view), self._rows)
            self._heads = view[heads].cast("Q")
            self._tails = view[tails]
            self._marks = view[marks].cast("I")
        except (ValueError, KeyError, TypeError) as error:  # bytes of ours that another version wrote
            raise CacheError(
                f"{path}: not a digest table of this version: {error}; call vbdguard.guard() anew"
            ) from error

    @classmethod
    def write(cls, folder: Path, digests: NDArray[np.uint8], flagged: Sequence[tuple[bytes, LabelChange]] = ()) -> Self:
        """Write a table below `folder` and return it; the same content is written once.

        Args:
            folder: where tables are kept; made where it is missing.
            digests: uint8 (N, 32), ascending; what the scan has seen. Repeats are kept once.
            flagged: the digests among them that are poisoned, each with its change of class.

        Raises:
            CacheError: if it cannot be written.
            ValueError: if a flagged digest is not among `digests`.
        """
        aside = folder / f".{token_hex(8)}.tmp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with aside.open("x+b") as file:
                identity = _write(file, _without_repeats(digests), flagged)
                file.flush()
                os.fsync(file.fileno())
            path = folder / identity
            aside.replace(path)
        except OSError as error:
            raise CacheError(f"{folder}: cannot write: {error}; free space, or pass another cache_dir") from error
        finally:
            with suppress(OSError):  # of a folder that is none, which the error above already speaks of
                aside.unlink(missing_ok=True)
        return cls(path, identity)

    def __len__(self) -> int:
        return self._rows

    def find(self, digest: bytes) -> int:
        """Return PASSES, UNKNOWN, or for a flagged digest the number of its change, counted from 1."""
        row = _find_row(self._heads, self._tails, digest)
        return UNKNOWN if row < 0 else self._marks[row]

    def __reduce__(self) -> tuple[type[Self], tuple[Path, str]]:
        return type(self), (self.path, self.identity)


def _find_row(heads: memoryview, tails: memoryview, digest: bytes) -> int:
    """Return the row of a digest, -1 if it is not there."""
    head = int.from_bytes(digest[:_HEAD], "big")
    row = _first_not_below(heads, head)
    # Whoever makes the data can make two heads alike; only the whole digest decides.
    while row < len(heads) and heads[row] == head:
        if tails[row * _TAIL : (row + 1) * _TAIL] == digest[_HEAD:]:
            return row
        row += 1
    return -1


def _first_not_below(heads: memoryview, head: int) -> int:
    """Return what `bisect_left` does, looking first where evenly spread heads would have it: digests are spread evenly.

    In a table of a million rows nearly all lie within this window, a few kilobytes instead of 20 places far apart.
    """
    rows = len(heads)
    guess, slack = head * rows >> 64, 2 * isqrt(rows) + 1
    low, high = max(0, guess - slack), min(rows, guess + slack)
    if (low and heads[low - 1] >= head) or (high < rows and heads[high] < head):
        return bisect_left(heads, head)
    return bisect_left(heads, head, low, high)


def _verified(path: Path, identity: str) -> memoryview:
    """Map a file whose content has been compared with what was written."""
    try:
        with path.open("rb") as file:
            start = file.read(_PREFIX)
            hasher = blake3(start[40:])
            while block := file.read(_READ):
                hasher.update(block)
            if start[:40] != _MAGIC + bytes.fromhex(identity) or hasher.hexdigest() != identity:
                raise CacheError(
                    f"{path}: this digest table is not the one that was written; remove it and call vbdguard.guard() "
                    "anew"
                )
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise CacheError(
            f"{path}: the table of what may be trained on cannot be read ({error}); it must stay until training ends, "
            "also when the cache is cleared. Call vbdguard.guard() anew; if this process runs on another machine, "
            "call it there"
        ) from error


def _json_length(view: memoryview) -> int:
    (length,) = unpack_from("<Q", view, 40)
    return int(length)


def _sections(start: int, rows: int) -> tuple[slice, slice, slice]:
    """Return where heads, tails and marks lie."""
    tails = start + _HEAD * rows
    marks = tails + _TAIL * rows
    return slice(start, tails), slice(tails, marks), slice(marks, marks + _MARK * rows)


def _without_repeats(digests: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if len(digests) < 2:
        return digests
    is_first = np.ones(len(digests), dtype=np.bool_)
    for start in range(1, len(digests), _BLOCK):  # a block at a time: ten million rows at once would take 320 MB
        stop = min(start + _BLOCK, len(digests))
        is_first[start:stop] = (digests[start:stop] != digests[start - 1 : stop - 1]).any(axis=1)
    return digests if is_first.all() else digests[is_first]


def _write(file: BinaryIO, digests: NDArray[np.uint8], flagged: Sequence[tuple[bytes, LabelChange]]) -> str:
    """Write all sections; return the content's hex BLAKE3."""
    rows = len(digests)
    numbers: dict[LabelChange, int] = {}
    marked = [(digest, numbers.setdefault(change, len(numbers) + 1)) for digest, change in flagged]
    text = json.dumps({"rows": rows, "changes": [astuple(change) for change in numbers]}).encode()
    text += b" " * (-len(text) % 8)  # numbers are read where they lie, so the sections are aligned
    file.write(_MAGIC + bytes(DIGEST_BYTES) + pack("<Q", len(text)) + text)
    for block in _blocks(digests):
        file.write(np.ascontiguousarray(block[:, :_HEAD]).view(">u8").astype(np.uint64).tobytes())
    for block in _blocks(digests):
        file.write(np.ascontiguousarray(block[:, _HEAD:]).tobytes())
    file.write(bytes(_MARK * rows))
    file.flush()
    if marked:
        _mark(file, _PREFIX + len(text), rows, marked)
    file.seek(40)
    hasher = blake3()
    while content := file.read(_READ):
        hasher.update(content)
    file.seek(len(_MAGIC))
    file.write(hasher.digest())
    return hasher.hexdigest()


def _blocks(digests: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(digests), _BLOCK):
        yield digests[start : start + _BLOCK]


def _mark(file: Any, start: int, rows: int, marked: Sequence[tuple[bytes, int]]) -> None:
    heads, tails, marks = _sections(start, rows)
    with mmap.mmap(file.fileno(), 0) as mapped, memoryview(mapped) as view:
        numbers, rest, target = view[heads].cast("Q"), view[tails], view[marks].cast("I")
        with numbers, rest, target:
            for digest, number in marked:
                row = _find_row(numbers, rest, digest)
                if row < 0:
                    raise ValueError(f"expected flagged digests among those scanned, got {digest.hex()}")
                target[row] = number
        mapped.flush()
