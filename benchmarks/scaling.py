"""Measure how the cost of a scan grows with samples, classes, poisoned classes and image size.

    python -m benchmarks.scaling --samples 50000 100000 500000 --classes 10 20 50 100 --poisoned 1 0 2 5 10 \\
        --side 32 64 96 --threads 2 --out results/scaling.jsonl
    python -m benchmarks.scaling --table results/scaling.jsonl --write benchmarks/README.md

The first value of each option is the base; each option is varied alone while the others stay at theirs. Synthetic
shards (`benchmarks.scaling_data`) are made for each point and removed after it. Every scan is a process of its own, so
that the peak of its memory is its own too. One JSON line per point; points that stand in the file are not repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import get_args

import torch

from benchmarks.document import put
from benchmarks.machine import commit, environment
from benchmarks.records import Record, append_record
from benchmarks.scaling_data import Point, write_point
from benchmarks.scaling_table import tables
from benchmarks.speed_limits import limits_in_own_process
from benchmarks.speed_scan import ScanOptions, timed_scan
from benchmarks.speed_watch import CommandFailedError
from vbdguard.config import Preset, ScanConfig

AXES = tuple(field.name for field in fields(Point))


def main() -> None:
    """Run what the command line asks for."""
    parser = _parser()
    args = parser.parse_args()
    if args.table:
        if not args.table.is_file():
            parser.error(f"{args.table}: no such file; expected one that --out has written")
        try:
            put(tables(_read(args.table)), args.write, "scaling")
        except (ValueError, OSError) as error:
            parser.error(str(error))
        return
    if args.threads:
        torch.set_num_threads(args.threads)  # for the record of the environment; the scans get it by themselves
    commit()
    options = ScanOptions(preset=args.preset, seed=args.seed, device=args.device, jobs=args.jobs, threads=args.threads)
    try:
        points = points_to_measure({axis: getattr(args, axis) for axis in AXES})
    except ValueError as error:
        parser.error(str(error))
    known = {_identity(record) for record in _read(args.out)} if args.out and args.out.exists() else set()
    try:
        for point in points:
            for run in range(args.runs):
                record = {**asdict(point), "preset": args.preset, "run": run, "threads": args.threads}
                if _identity(record) in known:
                    continue
                record |= measure(point, options, args.scratch)
                print(json.dumps(record), flush=True)
                if args.out:
                    append_record(args.out, record)
    except CommandFailedError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    if args.out:
        print(tables(_read(args.out)))


def points_to_measure(values: dict[str, Sequence[int]]) -> list[Point]:
    """Return the base point, the first of all values, and those that differ from it in one of them.

    Raises:
        ValueError: if a point cannot be.
    """
    base = Point(**{axis: options[0] for axis, options in values.items()})
    varied = [replace(base, **{axis: value}) for axis, options in values.items() for value in options[1:]]
    return list(dict.fromkeys([base, *varied]))


def measure(point: Point, options: ScanOptions, scratch: Path | None = None) -> Record:
    """Return what a cold scan and a second one of a point cost, and the machine's limits for its bytes.

    Args:
        point: the size of the data set.
        options: of the scans.
        scratch: a folder with room for the shards and for the scan's cache; None takes the system's.

    Raises:
        CommandFailedError: if a scan could not complete.
    """
    with tempfile.TemporaryDirectory(prefix="vbdguard-scaling-", dir=scratch, ignore_cleanup_errors=True) as temporary:
        shards, cache = Path(temporary) / "shards", Path(temporary) / "cache"
        shard_bytes = write_point(point, shards, seed=options.seed)
        cold = timed_scan(shards, cache, options)
        again = timed_scan(shards, cache, options)
        limits = limits_in_own_process(shards, ScanConfig(jobs=options.jobs).local_jobs)
    report = cold.report
    return {
        "shard_bytes": shard_bytes,
        "found": len(report.poisoned_classes),
        "flagged": len(report.flagged),
        "scanned_at": list(report.dataset.image_shape[:2]),
        "cold": cold.to_dict(),
        "again": again.to_dict(),
        "limits": limits,
        "environment": environment(report.device),
    }


def _identity(record: Record) -> tuple[object, ...]:
    return *(record[axis] for axis in AXES), record["preset"], record["run"], record["threads"]


def _read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", nargs="+", type=int, default=[50_000, 100_000, 500_000])
    parser.add_argument("--classes", nargs="+", type=int, default=[10, 20, 50, 100])
    parser.add_argument("--poisoned", nargs="+", type=int, default=[1, 0, 2, 5, 10], help="poisoned classes")
    parser.add_argument("--side", nargs="+", type=int, default=[32, 64, 96], help="height and width in pixels")
    parser.add_argument("--preset", default="default", choices=get_args(Preset))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, help="processes that read (default: one per core)")
    parser.add_argument("--threads", type=int, help="threads of torch in the scans")
    parser.add_argument("--scratch", type=Path, help="where shards and caches are put meanwhile (default: /tmp)")
    parser.add_argument("--out", type=Path, help="file to append one JSON line per point and run to")
    parser.add_argument("--table", type=Path, help="print the tables of a results file and stop")
    parser.add_argument("--write", type=Path, help="a Markdown file with the two markers, to write --table into")
    return parser


if __name__ == "__main__":
    main()
