"""Measure what a scan costs, how far it is from what the machine can do, and how much faster it is than the yardstick.

    python -m benchmarks.speed --data cifar10/ --triggers triggers/ --cells a2o/white_grid a2a/white_square clean \\
        --presets default paper --threads 2 --runs 3 --yardstick-batches 20 --out results/speed.jsonl
    python -m benchmarks.speed --table results/speed.jsonl --write benchmarks/README.md

A cell is written as shards; `vbdguard scan` reads them in a process of its own, with an empty cache and then again.
Seconds are wall clock from the command line; memory is that of all its processes. Right after it, in the same run:
Pillow decodes the same bytes, BLAKE3 hashes them, torch multiplies matrices of the types that the stages use, and the
yardstick (`benchmarks.yardstick`) trains on the same cell. Ratios are taken within a run. One JSON line per cell,
preset and run; more runs may be appended later.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import get_args

import torch

from benchmarks.cells import Cell, check_triggers, load_triggers
from benchmarks.data import Data, load_data
from benchmarks.document import put
from benchmarks.groups import expand
from benchmarks.machine import commit, environment
from benchmarks.records import Record, append_record
from benchmarks.speed_flops import Flops
from benchmarks.speed_runs import YardstickOptions, count_flops, measure_scan, measure_yardstick
from benchmarks.speed_scan import ScanOptions
from benchmarks.speed_shards import FORMATS, ShardedCell, load_encoded, write_cell
from benchmarks.speed_table import tables
from benchmarks.speed_watch import CommandFailedError
from vbdguard.attacks.triggers import Trigger
from vbdguard.config import Preset


def main() -> None:
    """Run what the command line asks for."""
    parser = _parser()
    args = parser.parse_args()
    if args.table:
        if not args.table.is_file():
            parser.error(f"{args.table}: no such file; expected one that --out has written")
        try:
            put(tables(_read(args.table)), args.write, "speed")
        except (ValueError, OSError) as error:
            parser.error(str(error))
        return
    if not args.data:
        parser.error("expected --data, or --table with a file of results")
    if args.threads:
        torch.set_num_threads(args.threads)
    commit()
    try:
        triggers = load_triggers(args.triggers)
        cells = _known_cells(args.cells, triggers)
        data = load_data(args.data, args.limit)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    try:
        with tempfile.TemporaryDirectory(
            prefix="vbdguard-speed-", dir=args.scratch, ignore_cleanup_errors=True
        ) as scratch:
            sharded = _write_cells(cells, data, triggers, args, Path(scratch))
            flops = _count_all(sharded, args) if args.flops else {}
            for run in range(args.runs):
                _one_run(run, sharded, data.name, flops, args)
    except CommandFailedError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("stopped; what was finished stands in the file", file=sys.stderr)
        sys.exit(130)
    if args.out:
        print(tables(_read(args.out)))


def _read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _known_cells(texts: list[str], triggers: dict[str, Trigger]) -> list[Cell]:
    cells = expand(texts)
    check_triggers(cells, triggers)
    return cells


def _write_cells(
    cells: list[Cell], data: Data, triggers: dict[str, Trigger], args: argparse.Namespace, scratch: Path
) -> dict[str, ShardedCell]:
    encoded = load_encoded(args.data, data)
    return {
        cell.name: write_cell(cell, data, encoded, triggers, args.seed, scratch / str(number), args.shards)
        for number, cell in enumerate(cells)
    }


def _count_all(cells: dict[str, ShardedCell], args: argparse.Namespace) -> dict[tuple[str, Preset], Flops]:
    """Return the operations of each cell's scans; they are the same in each run."""
    return {
        (cell, preset): count_flops(sharded, _scan_options(args, preset))
        for cell, sharded in cells.items()
        for preset in args.presets
    }


def _one_run(
    run: int,
    cells: dict[str, ShardedCell],
    data: str,
    flops: dict[tuple[str, Preset], Flops],
    args: argparse.Namespace,
) -> None:
    """Measure every cell once, each preset and beside them the yardstick, and keep the records."""
    for cell, sharded in cells.items():
        measured = {
            preset: measure_scan(sharded, _scan_options(args, preset), flops.get((cell, preset), {}))
            for preset in args.presets
        }
        device = next(iter(measured.values()))["device"]
        yardstick = measure_yardstick(cell, _plain_options(args, device)) if args.yardstick else None
        for preset, figures in measured.items():
            record = {
                **{"data": data, "limit": args.limit, "cell": cell, "seed": args.seed, "method": preset},
                **{"run": run, "shards": args.shards, "threads": args.threads},
                **figures,
                "yardstick": yardstick,
                "environment": environment(device),
            }
            print(json.dumps(record), flush=True)
            if args.out:
                append_record(args.out, record)


def _scan_options(args: argparse.Namespace, preset: Preset) -> ScanOptions:
    return ScanOptions(preset=preset, seed=args.seed, device=args.device, jobs=args.jobs, threads=args.threads)


def _plain_options(args: argparse.Namespace, device: str) -> YardstickOptions:
    return YardstickOptions(
        data=args.data,
        triggers=args.triggers,
        limit=args.limit,
        seed=args.seed,
        device=device,
        threads=args.threads,
        epochs=args.yardstick_epochs,
        batches=args.yardstick_batches,
        workers=args.yardstick_workers,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with train-*.parquet (image, label), or demo")
    parser.add_argument("--triggers", type=Path, help="folder with NAME.png and NAME_mask.png; built-in ones need none")
    parser.add_argument("--cells", nargs="+", default=["a2o/white_square", "a2a/white_square", "clean"])
    parser.add_argument("--presets", nargs="+", default=["default"], choices=get_args(Preset))
    parser.add_argument("--seed", type=int, default=0, help="of the draw and of the scan; the target of all-to-one")
    parser.add_argument("--limit", type=int, help="only the first so many samples")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--shards", choices=FORMATS, default="tar", help="what the cells are written as")
    parser.add_argument("--scratch", type=Path, help="where the shards and caches are put meanwhile (default: /tmp)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, help="processes that read (default: one per core)")
    parser.add_argument("--threads", type=int, help="threads of torch in the scan, the yardstick and the products")
    parser.add_argument("--flops", action=argparse.BooleanOptionalAction, default=True, help="count operations")
    parser.add_argument("--yardstick", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--yardstick-epochs", type=int, default=2, help="of stage 1 and of one detector")
    parser.add_argument("--yardstick-batches", type=int, help="time so many batches of each loop, not whole epochs")
    parser.add_argument("--yardstick-workers", type=int, default=0, help="processes of its loaders")
    parser.add_argument("--out", type=Path, help="file to append one JSON line per cell, preset and run to")
    parser.add_argument("--table", type=Path, help="print the tables of a results file and stop")
    parser.add_argument("--write", type=Path, help="a Markdown file with the two markers, to write --table into")
    return parser


if __name__ == "__main__":
    main()
