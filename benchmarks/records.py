"""The records of the bench: one JSON line per run, appended whole, so that a run cut off leaves the file whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Identity = tuple[str, int | None, str, int, str]


def identity(record: Record) -> Identity:
    """Return what makes a run the same run: data set, limit, cell, seed and method."""
    return record["data"], record["limit"], record["cell"], record["seed"], record["method"]


def read_records(paths: Iterable[Path]) -> list[Record]:
    """Return the records of files in their order; of runs that stand twice the last.

    Older records call the method "preset" and know no limit.

    Raises:
        ValueError: if a line is no record.
    """
    found: dict[Identity, Record] = {}
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.strip():
                record = _parse(line, f"{path}, line {number}")
                found[identity(record)] = record
    return list(found.values())


def append_record(path: Path, record: Record) -> None:
    """Append one record in a single write, on a line of its own; makes the folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record) + "\n"
    if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
        line = "\n" + line
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, line.encode())
        os.fsync(file)
    finally:
        os.close(file)


def _parse(line: str, place: str) -> Record:
    try:
        record: Record = json.loads(line)
        if "preset" in record:
            record["method"] = record.pop("preset")
        record.setdefault("limit", None)
        identity(record)
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{place}: expected a JSON record of the bench ({error}); remove the line") from error
    return record
