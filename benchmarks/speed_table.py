"""The records of the speed benchmark as Markdown tables: medians over runs with the range, ratios within each run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

from benchmarks.document import markdown
from benchmarks.figures import data_name
from benchmarks.records import Record

_INGEST = "ingest"


def tables(records: Sequence[Record]) -> str:
    """Return all tables of some records."""
    groups = list(_grouped(records).values())
    parts = [
        ("Seconds and memory of a cold scan", _costs(groups)),
        ("Distance to what the machine can do", _distances(groups)),
        ("Second scan of unchanged shards", _second_scans(groups)),
        ("Against the yardstick", _against_yardstick([group for group in groups if group[0]["yardstick"]])),
    ]
    return "\n\n".join(f"### {title}\n\n{table}" for title, table in parts if table)


def spread(values: Iterable[float], digits: int | None = None) -> str:
    """Return the median, and the smallest and largest value where there are several.

    Args:
        values: of the runs; none gives an empty text.
        digits: behind the point; None takes as many as show three digits, at most three.
    """
    found = sorted(values)
    if not found:
        return ""
    middle = median(found)
    if digits is None:
        digits = max(0, min(3, 2 - math.floor(math.log10(max(abs(middle), 1e-3)))))
    texts = [f"{value:,.{digits}f}" for value in (middle, found[0], found[-1])]
    return texts[0] if len(found) == 1 else f"{texts[0]} ({texts[1]} - {texts[2]})"


def compute_limit(record: Record, stage: str) -> float:
    """Return the seconds that a stage's operations take at the rate of large matrix products; 0 if it has none."""
    counts, rates = record["flops"].get(stage, {}), record["flops_per_second"]
    return float(sum(flops / rates[dtype] for dtype, flops in counts.items()))


def decode_share(record: Record) -> float:
    """Return what Pillow alone takes for the same bytes, of the seconds that reading took: 1 is the limit."""
    return float(record["limits"]["decode"] / record["cold"]["stages"][_INGEST])


def gigabytes_per_second(record: Record) -> float:
    """Return shard bytes per second of reading them a second time."""
    return float(record["shard_bytes"] / 1e9 / record["again"]["stages"][_INGEST])


def speed_up(record: Record, total: str = "total") -> float:
    """Return how many times as long as the scan, from the command line, the yardstick takes."""
    return float(record["yardstick"]["seconds"][total] / record["cold"]["wall"])


def _grouped(records: Iterable[Record]) -> dict[tuple[object, ...], list[Record]]:
    """Return the runs of the same thing on the same machine by the same code."""
    groups: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in records:
        where = record["environment"]
        key = (data_name(record), record["shards"], record["cell"], record["seed"], record["method"])
        groups[*key, where["device"], where["machine"], where["commit"], record["threads"]].append(record)
    return groups


def _head(group: Sequence[Record]) -> list[str]:
    first = group[0]
    return [data_name(first), first["shards"], first["cell"], first["method"], first["environment"]["device"]]


_HEAD = ["data", "shards", "cell", "preset", "device"]


def stages_of(records: Iterable[Record]) -> list[str]:
    """Return the stages of cold scans in their order."""
    return list(dict.fromkeys(stage for record in records for stage in record["cold"]["stages"]))


def peak_memory(group: Iterable[Record], figure: str) -> str:
    """Return the spread of a peak in MB, where the system tells of it."""
    return spread((record["cold"][figure] for record in group if record["cold"][figure]), 0)


def _costs(groups: Sequence[Sequence[Record]]) -> str:
    stages = stages_of(record for group in groups for record in group)
    rows = []
    for group in groups:
        cold, first = [record["cold"] for record in group], group[0]
        row = [*_head(group), spread(one["wall"] for one in cold)]
        row += [spread(one["stages"][stage] for one in cold if stage in one["stages"]) for stage in stages]
        row += [spread(one["wall"] - sum(one["stages"].values()) for one in cold)]
        row += [peak_memory(group, "peak_memory_mb"), peak_memory(group, "peak_unmapped_mb")]
        missed = first["poisoned"] - first["flagged"] + first["false_positives"]
        row += [f"{first['f1']:.2f}" if first["poisoned"] else "", str(first["false_positives"]), str(missed)]
        rows.append([*row, f"{first['classes_right']} of {first['classes_attacked']}", str(len(group))])
    found = ["F1 %", "false alarms", "missed", "classes found", "n"]
    return markdown(
        [*_HEAD, "wall s", *(f"{stage} s" for stage in stages), "start s", "peak MB", "of it unmapped", *found], rows
    )


def _distances(groups: Sequence[Sequence[Record]]) -> str:
    stages = _heavy_stages(record for group in groups for record in group)
    rows = []
    for group in groups:
        limits = [record["limits"] for record in group]
        row = [*_head(group), str(limits[0]["processes"]), spread(limit["decode"] for limit in limits)]
        row += [spread(map(decode_share, group), 2)]
        row += [spread((limit["hash_samples_limit"] / limit["hash_samples"] for limit in limits), 2)]
        row += [_rates(group), spread(_training_share(record) for record in group if record["flops"])]
        row += [spread(_stage_shares(group, stage)) for stage in stages]
        rows.append([*row, str(len(group))])
    columns = ["processes", "decode limit s", "decode limit / ingest", "hash limit / hashing", "matmul GFLOP/s"]
    shares = [f"matmul limit / {stage}" for stage in ("training", *stages)]
    return markdown([*_HEAD, *columns, *shares, "n"], rows)


def _heavy_stages(records: Iterable[Record]) -> list[str]:
    """Return the stages that hold a twentieth of some scan's operations."""
    found: dict[str, None] = {}
    for record in records:
        limits = {stage: compute_limit(record, stage) for stage in record["flops"]}
        found |= dict.fromkeys(stage for stage, limit in limits.items() if limit > sum(limits.values()) / 20)
    return list(found)


def _rates(group: Sequence[Record]) -> str:
    dtypes = group[0]["flops_per_second"]
    rates = {dtype: median(record["flops_per_second"][dtype] for record in group) for dtype in dtypes}
    return ", ".join(f"{dtype} {rate / 1e9:,.0f}" for dtype, rate in rates.items())


def _training_share(record: Record) -> float:
    """Return the least seconds that all operations can take, of those behind the reading."""
    seconds = sum(record["cold"]["stages"].values()) - record["cold"]["stages"][_INGEST]
    return float(sum(compute_limit(record, stage) for stage in record["flops"]) / seconds)


def _stage_shares(group: Sequence[Record], stage: str) -> list[float]:
    """Return the same of one stage, of the runs that have it."""
    found = [(compute_limit(record, stage), record["cold"]["stages"].get(stage)) for record in group]
    return [limit / seconds for limit, seconds in found if limit and seconds]


def _second_scans(groups: Sequence[Sequence[Record]]) -> str:
    rows = [
        [
            *_head(group),
            f"{group[0]['shard_bytes'] / 1e9:.3f}",
            spread(record["again"]["wall"] for record in group),
            spread(record["again"]["stages"][_INGEST] for record in group),
            spread(map(gigabytes_per_second, group), 2),
            spread(record["limits"]["hash_shards"] for record in group),
            str(len(group)),
        ]
        for group in groups
    ]
    return markdown([*_HEAD, "shards GB", "wall s", "reading s", "GB/s", "hash limit s", "n"], rows)


def _against_yardstick(groups: Sequence[Sequence[Record]]) -> str:
    if not groups:
        return ""
    rows = []
    for group in groups:
        seconds = [record["yardstick"]["seconds"] for record in group]
        row = [*_head(group), *(spread(one[name] for one in seconds) for name in ("stage1_epoch", "detector_epoch"))]
        row += [str(seconds[0]["detectors"]), spread((one["total"] for one in seconds), 0)]
        row += [spread(record["cold"]["wall"] for record in group), spread(map(speed_up, group), 1)]
        rows.append(
            [*row, spread((speed_up(record, "total_with_short_epochs") for record in group), 1), str(len(group))]
        )
    columns = ["stage 1 s/epoch", "detector s/epoch", "detectors", "yardstick s", "scan s"]
    return markdown([*_HEAD, *columns, "times faster", "with short epochs", "n"], rows)
