"""Manifests: CSV and JSON-lines files that name an image and its label in each row.

An image is named relative to the folder that holds the manifest, and has to lie below it: whoever writes a manifest
could otherwise make the scan, and then the trainer, read any file of the machine.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from vbdguard.errors import NothingToScanError, ReadError, SourceError
from vbdguard.sources.base import ExifRule, RawSample, Unreadable
from vbdguard.sources.columns import LABEL_COLUMNS
from vbdguard.sources.cutting import is_safe_name
from vbdguard.sources.files import is_url, open_binary
from vbdguard.sources.folder import FILES_PER_SHARD, METADATA, read_image
from vbdguard.sources.labels import checked_label
from vbdguard.sources.secrets import without_query
from vbdguard.sources.shards import ShardSource

PATH_COLUMNS = (
    "file_name",
    "path",
    "filename",
    "filepath",
    "file_path",
    "image_path",
    "img_path",
    "file",
    "image",
    "img",
)
"""`file_name` is Hugging Face's."""
MORE_LABEL_COLUMNS = ("target", "category", "class_name", "class_id", "label_id", "y")
DELIMITERS = ",;\t"
MAX_ROWS = 5_000_000
MAX_LINE = 1 << 20
"""Bytes of one line."""

_NUMBER = re.compile(r"\s*(-?[0-9]{1,18})(?:\.0)?\s*")
"""A column of numbers with gaps is written with `.0` by pandas."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a manifest."""

    path: str
    label: int | str
    line: int
    fault: str = ""
    """Reason and detail, parted by a colon, where the row names no sample."""


@dataclass(frozen=True, slots=True)
class ManifestShard:
    """A slice of the rows of a manifest."""

    root: str
    """The folder that holds the manifest, or its URL."""
    manifest: str
    """The manifest's name."""
    name: str
    rows: tuple[Row, ...]
    exif: ExifRule = "stored"

    def digest(self) -> None:
        """Return None: a slice is no file, its samples decide."""

    def read(self) -> Iterator[RawSample | Unreadable]:
        """Yield the images of the rows; what cannot be read comes as `Unreadable`."""
        for row in self.rows:
            key = row.path or f"{self.manifest}:{row.line}"
            try:
                yield RawSample(key, self._image(row), row.label)
            except ReadError as error:
                yield Unreadable(key, error.reason, f"line {row.line} of {self.manifest}: {error.detail}")

    def _image(self, row: Row) -> bytes:
        if row.fault:
            reason, _, detail = row.fault.partition(":")
            raise ReadError(reason, detail)
        if is_url(self.root):
            return read_image(f"{self.root.rstrip('/')}/{row.path}")
        full = Path(self.root, row.path)
        if not Path(os.path.realpath(full)).is_relative_to(os.path.realpath(self.root)):
            raise ReadError("unsafe-path", "expected an image below the manifest's folder, a link leads out of it")
        return read_image(str(full))


def open_manifest(path: str, *, label_key: str | None = None) -> ShardSource:
    """Return the source over the rows of a CSV or JSON-lines manifest.

    Args:
        path: a local path or an fsspec URL.
        label_key: the label's column; None takes the first of the usual ones.

    Raises:
        SourceError: if the columns are not there, or it is no such file.
        NothingToScanError: if it has no row.
        ReadError: "io-error".
    """
    with open_binary(path) as stream:
        rows = tuple(_rows(path, stream, label_key))
    if not rows:
        raise NothingToScanError(f"{path} holds no row; expected an image and a label in each")
    root, name = _split(path)
    slices = [rows[start : start + FILES_PER_SHARD] for start in range(0, len(rows), FILES_PER_SHARD)]
    exif: ExifRule = "turned" if name in METADATA else "stored"
    shards = [ManifestShard(root, name, f"{name}#{number:06d}", part, exif) for number, part in enumerate(slices)]
    return ShardSource((path,), shards, None, not root.startswith("memory://"))


def is_manifest(start: bytes) -> bool:
    """Return whether a file that begins so can be a manifest: its first line names a column of paths."""
    line = start.split(b"\n", 1)[0]
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    if text.lstrip().startswith("{"):
        return any(f'"{name}"' in text for name in PATH_COLUMNS)
    return any(name in PATH_COLUMNS for name in _header(text))


def _split(path: str) -> tuple[str, str]:
    if is_url(path):
        root, _, name = without_query(path).rpartition("/")
        return root, name
    full = Path(path).absolute()
    return str(full.parent), full.name


def _rows(path: str, stream: BinaryIO, label_key: str | None) -> Iterator[Row]:
    lines = _lines(path, stream)
    first = next(lines, "")
    entries = _json_rows(first, lines) if first.lstrip().startswith("{") else _csv_rows(path, first, lines)
    columns: tuple[str, str] | None = None
    names: Collection[str] = ()
    for count, (line, entry) in enumerate(entries, 1):
        if count > MAX_ROWS:
            raise SourceError(f"{path}: expected at most {MAX_ROWS} rows; split it, or pack the images into tar shards")
        if isinstance(entry, str):
            yield Row("", "", line, entry)
            continue
        columns = columns or _columns(path, list(entry), label_key)
        if entry.keys() != names:
            names = entry.keys()
            _refuse_other_columns(path, line, names, columns, label_key)
        yield _row(entry, columns, line)


def _lines(path: str, stream: BinaryIO) -> Iterator[str]:
    is_first = True
    while line := stream.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise SourceError(f"{path}: expected lines of at most {MAX_LINE} bytes; is it a CSV or JSON-lines file?")
        yield line.decode("utf-8-sig" if is_first else "utf-8", "backslashreplace")
        is_first = False


Entry = tuple[int, dict[str, object] | str]
"""The number of a line, and its fields, or reason and detail why it has none."""


def _json_rows(first: str, lines: Iterator[str]) -> Iterator[Entry]:
    line = 0
    text: str | None = first
    while text is not None:
        line += 1
        if text.strip():
            yield line, _json_fields(text)
        text = next(lines, None)


def _json_fields(text: str) -> dict[str, object] | str:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"bad-row:expected a JSON object, got {text[:80]!r}: {error}"
    return body if isinstance(body, dict) else f"bad-row:expected a JSON object, got {text[:80]!r}"


def _csv_rows(path: str, first: str, lines: Iterator[str]) -> Iterator[Entry]:
    delimiter = _delimiter(first)
    header = _header(first, delimiter)
    if len(set(header)) != len(header):
        raise SourceError(f"{path}: expected each column once, got {', '.join(header)}")
    _refuse_two_tables(path, first, delimiter)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 2
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield line, f"bad-row:expected a row of CSV: {error}"
            continue
        if fields is None:
            return
        if not fields:
            continue
        if len(fields) != len(header):
            yield line, f"bad-row:expected {len(header)} fields ({', '.join(header)}), got {len(fields)}"
        elif any("\n" in field for field in fields):
            yield line, "bad-row:expected a row on one line, got a field of several; was a quote left open?"
        else:
            yield line, dict(zip(header, fields, strict=True))


def _refuse_two_tables(path: str, first: str, delimiter: str) -> None:
    """Refuse a table whose header names columns of paths also where other readers would part it otherwise."""
    if PurePosixPath(path).name in METADATA and delimiter != ",":
        raise SourceError(f"{path}: expected commas between columns, as Hugging Face reads it, got {delimiter!r}")
    for other in DELIMITERS:
        if other != delimiter and any(name in PATH_COLUMNS for name in _header(first, other)):
            raise SourceError(
                f"{path}: expected one way to part its columns, got {delimiter!r} and {other!r}; "
                "readers would not agree on it"
            )


def _header(line: str, delimiter: str | None = None) -> list[str]:
    """Return the names of the columns; none where the line cannot be CSV."""
    try:
        fields = next(csv.reader(io.StringIO(line.strip("\r\n")), delimiter=delimiter or _delimiter(line)), [])
    except csv.Error:
        return []
    return [field.strip() for field in fields]


def _delimiter(line: str) -> str:
    return max(DELIMITERS, key=line.count)


def _columns(path: str, names: Sequence[str], label_key: str | None) -> tuple[str, str]:
    wanted = (label_key,) if label_key else (*LABEL_COLUMNS, *MORE_LABEL_COLUMNS)
    labels = [name for name in wanted if name in names]
    paths = [name for name in PATH_COLUMNS if name in names and name not in labels[:1]]
    shown = ", ".join(names)[:200]
    if not paths:
        raise SourceError(f"{path}: expected a column of paths ({', '.join(PATH_COLUMNS)}), got {shown}")
    if not labels:
        raise SourceError(
            f"{path}: expected a label column ({', '.join(wanted)}), got {shown}; name it with --label-key"
        )
    return paths[0], labels[0]


def _refuse_other_columns(
    path: str, line: int, names: Collection[str], columns: tuple[str, str], label_key: str | None
) -> None:
    """Refuse a row with a column that would have been taken for those of the rows above, had it stood there.

    A reader that looks at all rows before it decides takes that one.
    """
    with_both = _columns(path, [*names, *columns], label_key)
    if with_both != columns:
        raise SourceError(
            f"{path}: expected path and label in {' and '.join(columns)} as in the lines above, line {line} has "
            f"{' and '.join(with_both)} too; readers would not agree on it: name the label with --label-key, and let "
            "one column hold the path"
        )


def _row(entry: dict[str, object], columns: tuple[str, str], line: int) -> Row:
    path, value = (entry.get(column) for column in columns)
    if not isinstance(path, str) or not path.strip():
        return Row("", "", line, f"no-image:expected a path in {columns[0]}, got {path!r:.80}")
    path = path.strip()
    if not is_safe_name(path) or "://" in path:
        detail = f"expected a path below the manifest's folder, got {path!r:.200}"
        return Row("", "", line, f"unsafe-path:{detail}")
    try:
        label = checked_label(_typed(value), columns[1])
    except ReadError as error:
        return Row(path, "", line, f"{error.reason}:{error.detail}")
    if label is None:
        return Row(path, "", line, f"no-label:expected a label in {columns[1]}, got nothing")
    return Row(str(PurePosixPath(path)), label, line)


def _typed(value: object) -> object:
    """Return the number that a text of digits stands for: CSV knows no types."""
    if not isinstance(value, str):
        return value
    number = _NUMBER.fullmatch(value)
    return int(number[1]) if number else value.strip() or None
