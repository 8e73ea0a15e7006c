"""Measure what the guarded streams' table of digests costs: memory of all processes together, and time of a lookup.

    python -m benchmarks.digest_table --samples 1000000 --out results.jsonl

One main process and four workers, forked or spawned, each map the table and look up digests all over it. Memory is the
proportional set size of the table's file (Linux: `Pss` of its mapping in /proc/<pid>/smaps), summed over the processes:
a page that five processes share counts once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import environment
from vbdguard.guards.digest_table import DigestTable, LabelChange
from vbdguard.ingest.digest import DIGEST_BYTES, digest_order

WORKERS = 4
FLAGGED_EVERY = 10
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of the results."""

    samples: int
    start: str
    workers: int
    file_megabytes: float
    shared_megabytes: float
    """Proportional set size of the table over all processes."""
    lookup_microseconds: float
    """Median over the workers, of known and unknown digests at random places."""
    load_seconds: float
    """Until a worker has compared the table with its checksum, the longest."""
    write_seconds: float
    environment: dict[str, Any]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--lookups", type=int, default=200_000)
    parser.add_argument("--out", type=Path, help="file to append one JSON line a way of starting workers to")
    args = parser.parse_args()
    for start in ("fork", "spawn"):
        with tempfile.TemporaryDirectory() as folder:
            line = json.dumps(asdict(measure(Path(folder), args.samples, start=start, lookups=args.lookups)))
        print(line)
        if args.out:
            with args.out.open("a") as out:
                out.write(line + "\n")


def measure(folder: Path, samples: int, *, start: str, lookups: int) -> Record:
    """Return what the table costs with workers that are started one way."""
    digests = drawn(samples)
    flagged = [
        (digests[row].tobytes(), LabelChange(row % 1000, str(row % 1000), 0, "0"))
        for row in range(0, samples, FLAGGED_EVERY)
    ]
    begin = time.perf_counter()
    table = DigestTable.write(folder, digests, flagged)
    write_seconds = time.perf_counter() - begin
    del flagged
    context: Any = multiprocessing.get_context(start)
    barrier = context.Barrier(WORKERS)
    results: Any = context.Queue()
    workers = [
        context.Process(target=_work, args=(table, samples, seed, lookups, barrier, results)) for seed in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    own = proportional_kilobytes(table.path)
    return Record(
        samples=samples,
        start=start,
        workers=WORKERS,
        file_megabytes=round(table.path.stat().st_size / 1e6, 1),
        shared_megabytes=round((own + sum(one["kilobytes"] for one in found)) * 1024 / 1e6, 1),
        lookup_microseconds=round(float(np.median([one["microseconds"] for one in found])), 2),
        load_seconds=round(max(one["load"] for one in found), 3),
        write_seconds=round(write_seconds, 2),
        environment=environment("cpu"),
    )


def drawn(samples: int) -> NDArray[np.uint8]:
    """Return digests (N, 32) at random, ascending."""
    digests = np.random.default_rng(0).integers(0, 256, (samples, DIGEST_BYTES), dtype=np.uint8)
    return digests[digest_order(digests)]


def proportional_kilobytes(path: Path) -> int:
    """Return how much of a mapped file this process accounts for, its shared pages divided by those who share them."""
    total, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if _MAPPING.match(line):
            is_ours = line.endswith(str(path))
        elif is_ours and line.startswith("Pss:"):
            total += int(line.split()[1])
    return total


def _work(table: DigestTable, samples: int, seed: int, lookups: int, barrier: Any, results: Any) -> None:
    begin = time.perf_counter()
    DigestTable(table.path, table.identity)  # what unpickling does, so that forked workers are timed alike
    load = time.perf_counter() - begin
    microseconds = _time(table.find, _asked(table, samples, seed, lookups))
    barrier.wait()  # all have touched their pages
    results.put({"kilobytes": proportional_kilobytes(table.path), "microseconds": microseconds, "load": load})
    barrier.wait()  # nobody leaves while others count


def _asked(table: DigestTable, samples: int, seed: int, lookups: int) -> list[bytes]:
    """Return digests at random, half of them from the table's own file."""
    generator = np.random.default_rng(seed + 1)
    known = generator.integers(0, samples, lookups // 2)
    content = np.memmap(table.path, dtype=np.uint8, mode="r")
    start = len(content) - samples * (DIGEST_BYTES + 4)
    heads = content[start : start + 8 * samples].view(np.uint64)
    tails = content[start + 8 * samples : start + DIGEST_BYTES * samples].reshape(samples, DIGEST_BYTES - 8)
    own = [int(heads[row]).to_bytes(8, "big") + tails[row].tobytes() for row in known]
    return own + [generator.bytes(DIGEST_BYTES) for _ in range(lookups - len(own))]


def _time(find: Callable[[bytes], int], asked: list[bytes]) -> float:
    for digest in asked[:1000]:
        find(digest)
    begin = time.perf_counter()
    for digest in asked:
        find(digest)
    return (time.perf_counter() - begin) / len(asked) * 1e6


if __name__ == "__main__":
    main()
