"""What one call of a benchmark over cells has to measure, from its command line to the records."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.cells import Cell, check_triggers, load_triggers
from benchmarks.data import Data, load_data
from benchmarks.groups import GROUPS, expand
from benchmarks.machine import commit
from benchmarks.records import Record, append_record, identity, read_records
from benchmarks.scales import SCALES, Scale
from vbdguard.attacks.triggers import Trigger
from vbdguard.method.device import resolve_device


@dataclass(frozen=True, slots=True)
class Plan:
    """Data, cells with their seeds, and where the records go."""

    data: Data
    triggers: dict[str, Trigger]
    cells: Sequence[tuple[Cell, int]]
    limit: int | None
    device: torch.device
    out: Path

    def runs(self, methods: Sequence[str]) -> Iterator[tuple[Record, Cell]]:
        """Yield the head of the record and the cell of each run that the file lacks; methods innermost."""
        done = {identity(record) for record in read_records([self.out])} if self.out.exists() else set()
        for cell, seed in self.cells:
            for method in methods:
                head = {"data": self.data.name, "limit": self.limit, "cell": cell.name, "seed": seed, "method": method}
                if identity(head) not in done:
                    yield head, cell


Run = Callable[[Record, Cell, Plan], Record]
"""Takes the head of a record, its cell and the plan; returns the whole record."""


def carry_out(plan: Plan, methods: Sequence[str], run: Run) -> None:
    """Make the runs that the file lacks and append their records; failures are told of and the rest goes on.

    Raises:
        SystemExit: with 130 after Ctrl-C, with 1 if a run failed.
    """
    failed = []
    try:
        for head, cell in plan.runs(methods):
            name = f"{cell.name} seed {head['seed']} {head['method']}"
            try:
                record = run(head, cell, plan)
            except Exception:  # one method's failure must not end a night's measurements
                traceback.print_exc()
                failed.append(name)
                continue
            append_record(plan.out, record)
            print(f"{name}: F1 {record['f1']:.2f} in {record['seconds']['total']:.0f} s", flush=True)
    except KeyboardInterrupt:
        print(f"stopped; {plan.out} holds what was finished, the same command goes on", file=sys.stderr)
        sys.exit(130)
    if failed:
        sys.exit(f"{len(failed)} runs failed: {', '.join(failed)}")


def make_plan(args: argparse.Namespace, scale: Scale) -> Plan:
    """Return the plan of a command line; what it leaves open, the scale says.

    Raises:
        ValueError: if a cell, trigger or device is unknown.
        OSError: if the data cannot be read.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    commit()
    triggers = load_triggers(args.triggers)
    cells = expand(args.cells or scale.cells)
    check_triggers(cells, triggers)
    seeds = args.seeds or scale.seeds
    clean_seeds = args.clean_seeds or args.seeds or scale.clean_seeds
    pairs = [(cell, seed) for cell in cells for seed in (clean_seeds if cell.mode == "clean" else seeds)]
    part, parts = args.part
    limit = args.limit or scale.limit
    device = resolve_device(args.device)
    return Plan(load_data(args.data, limit), triggers, pairs[part - 1 :: parts], limit, device, args.out)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that say which cells of which data are measured, and where."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train-*.parquet (image, label), or demo")
    parser.add_argument("--triggers", type=Path, help="folder with NAME.png and NAME_mask.png; built-in ones need none")
    parser.add_argument(
        "--cells", nargs="+", help=f"{', '.join(GROUPS)}, patterns, or MODE/TRIGGER[/BLEND[/RATIO]][+VARIATION...]"
    )
    parser.add_argument("--seeds", nargs="+", type=int, help="of the draw; the target label of all-to-one cells")
    parser.add_argument("--clean-seeds", nargs="+", type=int, help="seeds of clean cells, where others are wanted")
    parser.add_argument("--scale", choices=SCALES, help="cells, methods, seeds and limit, where no option names them")
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="i/N", help="only every N-th cell and seed")
    parser.add_argument("--out", type=Path, default=Path("results.jsonl"))
    parser.add_argument("--limit", type=int, help="only the first so many samples")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="threads of torch; two runs side by side want one each")
    return parser


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"expected i/N with 1 <= i <= N, got {text!r}")
    return int(part), int(parts)
