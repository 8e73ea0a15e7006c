"""One run of the speed benchmark: a cold scan, a second one, what the machine can do, and the yardstick, in a row."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.records import Record
from benchmarks.speed_flops import Flops
from benchmarks.speed_limits import limits_in_own_process, matmul_rate
from benchmarks.speed_scan import ScanOptions, timed_scan
from benchmarks.speed_shards import ShardedCell
from benchmarks.speed_watch import watch
from vbdguard.config import ScanConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class YardstickOptions:
    """What `benchmarks.yardstick` is called with besides the cell."""

    data: str
    triggers: Path | None = None
    limit: int | None = None
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    epochs: int = 2
    batches: int | None = None
    workers: int = 0

    def arguments(self) -> list[str]:
        """Return them as the command takes them."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def measure_scan(sharded: ShardedCell, options: ScanOptions, flops: Flops) -> Record:
    """Return what scans of one cell cost, and the machine's limits: scores, seconds, memory.

    Args:
        sharded: the cell on disk.
        options: of the scans.
        flops: what `count_flops` said of them; empty where nothing was counted.

    Raises:
        CommandFailedError: if a scan could not complete.
    """
    with _empty_cache(sharded) as cache:
        cold = timed_scan(sharded.folder, cache, options)
        again = timed_scan(sharded.folder, cache, options)
    return {
        **sharded.score(cold.report),
        "image_bytes": sharded.image_bytes,
        "shard_bytes": sharded.shard_bytes,
        "cold": cold.to_dict(),
        "again": again.to_dict(),
        "limits": limits_in_own_process(sharded.folder, ScanConfig(jobs=options.jobs).local_jobs),
        "flops": flops,
        "flops_per_second": _rates(flops, cold.report.device),
        "device": cold.report.device,
    }


def count_flops(sharded: ShardedCell, options: ScanOptions) -> Flops:
    """Return the operations of a scan, counted in a process of its own.

    Raises:
        CommandFailedError: if the scan could not complete.
    """
    with _empty_cache(sharded) as cache:
        command = [sys.executable, "-m", "benchmarks.speed_flops", str(sharded.folder), "--preset", options.preset]
        command += ["--seed", str(options.seed), "--cache-dir", str(cache)]
        flops: Flops = json.loads(_last_line(watch(command, environ=options.environ()).stdout))
    return flops


@contextmanager
def _empty_cache(sharded: ShardedCell) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cache-", dir=sharded.folder.parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _rates(flops: Flops, device: str) -> Mapping[str, float]:
    """Return what a matrix product reaches in operations per second, for each type of number that was counted."""
    dtypes = sorted({dtype for counts in flops.values() for dtype in counts})
    return {dtype: round(matmul_rate(dtype, device)) for dtype in dtypes}


def measure_yardstick(cell: str, options: YardstickOptions) -> dict[str, Any]:
    """Return the seconds of the yardstick on a cell, its memory, and how much of it was measured.

    Raises:
        CommandFailedError: if it could not complete.
    """
    command = [sys.executable, "-m", "benchmarks.yardstick", "--cell", cell, *options.arguments()]
    watched = watch(command, environ={"OMP_NUM_THREADS": str(options.threads)} if options.threads else {})
    record: dict[str, Any] = json.loads(_last_line(watched.stdout))
    kept = {name: record[name] for name in ("epochs", "batches", "workers", "seconds")}
    return {**kept, "peak_memory_mb": watched.peak_memory_mb}


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
