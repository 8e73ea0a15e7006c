"""Measure what an epoch through the guard costs, against the same loader without it.

    python -m benchmarks.guard_overhead --cases tensors image_folder --workers 0 2 --out results.jsonl
    python -m benchmarks.guard_overhead --table results.jsonl

Plain and guarded epochs take turns in one process with the same workers, which stay alive between epochs. A tenth of
the samples is flagged; times are per sample that comes out. One JSON line per case and number of workers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from benchmarks.guard_map_style import MAP_STYLE
from benchmarks.guard_streams import STREAMS
from benchmarks.interleaved import Epoch, compare
from benchmarks.machine import commit, environment

MakeEpochs = Callable[[Path, int, int], tuple[Epoch, Epoch]]
"""Takes an empty folder, the number of samples and of workers; returns a plain and a guarded epoch."""

CASES: Mapping[str, MakeEpochs] = MappingProxyType({**MAP_STYLE, **STREAMS})
"""What can be measured; each table says what it stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """One line of the results."""

    case: str
    workers: int
    samples: int
    repeats: int
    ratio: float
    ratio_low: float
    ratio_high: float
    processor_ratio: float | None
    """None with workers, whose processor time is not this process's."""
    plain_microseconds: float
    environment: Mapping[str, Any]


def main() -> None:
    """Run what the command line asks for."""
    args = _arguments()
    if args.table:
        print(table([json.loads(line) for line in args.table.read_text().splitlines()]))
        return
    torch.set_num_threads(1)
    commit()
    records = []
    for case in args.cases:
        for workers in args.workers:
            with tempfile.TemporaryDirectory() as folder:
                record = asdict(
                    measure(case, folder=Path(folder), workers=workers, samples=args.samples, repeats=args.repeats)
                )
            records.append(record)
            print(json.dumps(record))
            if args.out:
                with args.out.open("a") as out:
                    out.write(json.dumps(record) + "\n")
    print(table(records))


def measure(case: str, *, folder: Path, workers: int, samples: int, repeats: int) -> Overhead:
    """Return what the guard costs in one case."""
    plain, guarded = CASES[case](folder, samples, workers)
    found = compare(plain, guarded, repeats=repeats)
    return Overhead(
        case=case,
        workers=workers,
        samples=samples,
        repeats=repeats,
        ratio=round(found.wall.median, 4),
        ratio_low=round(found.wall.low, 4),
        ratio_high=round(found.wall.high, 4),
        processor_ratio=None if workers else round(found.processor.median, 4),
        plain_microseconds=round(found.plain_microseconds, 2),
        environment=environment("cpu"),
    )


def table(records: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the records, one row each."""
    columns = ("case", "workers", "samples", "plain µs/sample", "guarded / plain (quartiles)", "by processor time", "n")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for record in records:
        processor = record["processor_ratio"]
        cells = [record["case"], str(record["workers"]), f"{record['samples']:,}"]
        cells.append(f"{record['plain_microseconds']:.1f}")
        cells.append(f"{record['ratio']:.3f} ({record['ratio_low']:.3f} - {record['ratio_high']:.3f})")
        cells += ["" if processor is None else f"{processor:.3f}", str(record["repeats"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=9, help="pairs of epochs")
    parser.add_argument("--out", type=Path, help="file to append one JSON line a case to")
    parser.add_argument("--table", type=Path, help="print the table of a results file and stop")
    return parser.parse_args()


if __name__ == "__main__":
    main()
