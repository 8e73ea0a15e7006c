"""The records of the scaling benchmark as Markdown tables, one for each thing that was varied."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median

from benchmarks.document import markdown
from benchmarks.records import Record
from benchmarks.speed_table import decode_share, gigabytes_per_second, peak_memory, spread, stages_of

_AXES = {"samples": "samples", "classes": "classes", "poisoned": "poisoned classes", "side": "pixels a side"}


def tables(records: Sequence[Record]) -> str:
    """Return a table for each axis with more than one value, its other axes at their base (the most frequent value)."""
    if not records:
        return ""
    base = {axis: Counter(record[axis] for record in records).most_common(1)[0][0] for axis in _AXES}
    parts = []
    for axis, title in _AXES.items():
        others = [other for other in _AXES if other != axis]
        chosen = [record for record in records if all(record[other] == base[other] for other in others)]
        if len({record[axis] for record in chosen}) > 1:
            fixed = ", ".join(f"{_AXES[other]}: {base[other]:,}" for other in others)
            parts.append(f"### By {title} ({fixed})\n\n{_table(axis, chosen)}")
    return "\n\n".join(parts)


def _table(axis: str, records: Sequence[Record]) -> str:
    groups: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record[axis]):
        where = record["environment"]
        groups[record[axis], record["preset"], record["threads"], where["device"], where["commit"]].append(record)
    stages = stages_of(records)
    smallest = next(iter(groups.values()))
    rows = [[*_row(axis, group, stages), _growth(axis, group, smallest), str(len(group))] for group in groups.values()]
    columns = [
        _AXES[axis],
        "preset",
        "device",
        "wall s",
        *(f"{stage} s" for stage in stages),
        "peak MB",
        "of it unmapped",
        "found",
    ]
    columns += ["decode limit / ingest", "shards GB", "second scan s", "GB/s", "grows by: size, s, MB", "n"]
    return markdown(columns, rows)


def _row(axis: str, group: Sequence[Record], stages: Sequence[str]) -> list[str]:
    first = group[0]
    return [
        f"{first[axis]:,}",
        first["preset"],
        first["environment"]["device"],
        spread(record["cold"]["wall"] for record in group),
        *(spread(record["cold"]["stages"].get(stage, 0.0) for record in group) for stage in stages),
        peak_memory(group, "peak_memory_mb"),
        peak_memory(group, "peak_unmapped_mb"),
        f"{first['found']} of {first['poisoned']}",
        spread(map(decode_share, group), 2),
        f"{first['shard_bytes'] / 1e9:.2f}",
        spread(record["again"]["wall"] for record in group),
        spread(map(gigabytes_per_second, group), 2),
    ]


def _growth(axis: str, group: Sequence[Record], smallest: Sequence[Record]) -> str:
    """Return how many times as large, as slow and as hungry a group is as the smallest."""

    def middle(records: Sequence[Record], name: str) -> float:
        return median(record["cold"][name] or 0 for record in records)

    size = f"{group[0][axis] / smallest[0][axis]:.1f}" if smallest[0][axis] else "-"
    times = [f"{middle(group, name) / max(middle(smallest, name), 1e-9):.2f}" for name in ("wall", "peak_memory_mb")]
    return ", ".join([size, *times])
