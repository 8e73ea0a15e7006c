"""Which runs there are of the paper's cells and of others, and which commits made them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from benchmarks.cells import Cell
from benchmarks.document import markdown
from benchmarks.figures import CEILING, OURS, data_name
from benchmarks.groups import PAPERS_ROWS
from benchmarks.records import Record

_SEEDS = (0, 1, 2)
"""The seeds that are to be run of each of the paper's cells."""
_ROW_OF = {cell.name: title for title, cells in PAPERS_ROWS.items() for cell in cells}
_OTHER, _CLEAN = "other attacks", "clean sets"
_RIVALS = "rivals"


def ages(records: Sequence[Record]) -> str:
    """Return how many runs there are of each row of the paper's tables, and how many of them each commit made.

    Of ours a row of the paper tells how many there are to be: its cells with seeds 0 to 2.
    """
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[data_name(record), _method(record), _row_of(record["cell"])].append(record)
    rows = [
        (data, title, method, _count(title, group), _commits(group))
        for data in sorted({data for data, _, _ in groups})
        for method in (*OURS, _RIVALS, CEILING)
        for title in (*PAPERS_ROWS, _OTHER, _CLEAN)
        if (group := groups.get((data, method, title)))
    ]
    return markdown(("data", "cells of", "method", "runs", "commit: runs"), rows)


def _method(record: Record) -> str:
    method = str(record["method"])
    return method if method in (*OURS, CEILING) else _RIVALS


def _row_of(cell: str) -> str:
    return _ROW_OF.get(cell) or (_CLEAN if Cell.parse(cell).mode == "clean" else _OTHER)


def _count(title: str, group: Sequence[Record]) -> str:
    if title not in PAPERS_ROWS or group[0]["method"] not in OURS:
        return str(len(group))
    return f"{sum(record['seed'] in _SEEDS for record in group)} of {len(_SEEDS) * len(PAPERS_ROWS[title])}"


def _commits(group: Sequence[Record]) -> str:
    counts = Counter(str(record["environment"]["commit"]) for record in group)
    return ", ".join(f"{commit}: {count}" for commit, count in counts.most_common())
