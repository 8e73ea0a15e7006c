"""Measure detection on the cells of the paper's tables and beyond, one JSON line per run; resumable.

    python -m benchmarks.detection --data DIR --triggers DIR --cells table1 'a2a/*/0.1/*' clean a2o/white_grid+jpeg75 \
        --methods default paper abl --seeds 0 1 2 --out results/cifar10.jsonl
    python -m benchmarks.detection --data demo --scale smoke
    python -m benchmarks.tables results/cifar10.jsonl

A run that already stands in the file is not repeated; Ctrl-C leaves the file whole. A run that fails is told of and
left out, and the status is 1 in the end. The truth serves for scoring only.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.cells import Cell, known_triggers, load_triggers
from benchmarks.data import Data, load_data, make_trial
from benchmarks.groups import GROUPS, expand
from benchmarks.machine import commit, environment, forget_peak, peak_memory
from benchmarks.methods import Method
from benchmarks.records import Record, append_record, identity, read_records
from benchmarks.roster import choose
from benchmarks.scales import SCALES, Scale
from benchmarks.scoring import score
from vbdguard.attacks.triggers import BUILT_IN, Trigger
from vbdguard.method.device import resolve_device

_DEFAULT = Scale(cells=("clean",), methods=("default",), seeds=(0,), clean_seeds=(0,))


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that one call has to measure, and where the records go."""

    data: Data
    triggers: dict[str, Trigger]
    cells: Sequence[tuple[Cell, int]]
    """Cells with their seeds, each pair once."""
    methods: Sequence[Method]
    limit: int | None
    device: torch.device
    out: Path

    def runs(self) -> Iterator[tuple[Record, Cell, Method]]:
        """Yield the head of the record, cell and method of each run that the file lacks; methods innermost."""
        done = {identity(record) for record in read_records([self.out])} if self.out.exists() else set()
        for cell, seed in self.cells:
            for method in self.methods:
                head = {
                    "data": self.data.name,
                    "limit": self.limit,
                    "cell": cell.name,
                    "seed": seed,
                    "method": method.name,
                }
                if identity(head) not in done:
                    yield head, cell, method


def main() -> None:
    """Run what the command line asks for."""
    parser = _parser()
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    commit()
    try:
        plan = _plan(args)
        failed = _measure(plan)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print(f"stopped; {args.out} holds what was finished, the same command goes on", file=sys.stderr)
        sys.exit(130)
    if failed:
        sys.exit(f"{len(failed)} runs failed: {', '.join(failed)}")


def run(head: Record, cell: Cell, method: Method, plan: Plan) -> Record:
    """Return the record of one run: poison, detect, score."""
    trial = make_trial(cell, plan.data, plan.triggers, head["seed"], method.needs)
    forget_peak(plan.device)
    start = time.perf_counter()
    verdict = method.detect(trial.task, seed=head["seed"], device=plan.device)
    seconds = {**verdict.seconds, "total": time.perf_counter() - start}
    return {
        **head,
        **score(verdict, trial.is_poisoned, trial.task.labels),
        "trigger_from": None if cell.mode == "clean" else "file" if cell.trigger in plan.triggers else "built in",
        "clean_samples_from": trial.clean_from,
        "settings": dict(verdict.settings),
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        **peak_memory(plan.device),
        "environment": environment(str(plan.device)),
    }


def _measure(plan: Plan) -> list[str]:
    """Make the runs, append their records, and return the names of those that failed."""
    failed = []
    for head, cell, method in plan.runs():
        name = f"{cell.name} seed {head['seed']} {method.name}"
        try:
            record = run(head, cell, method, plan)
        except Exception:  # one method's failure must not end a night's measurements
            traceback.print_exc()
            failed.append(name)
            continue
        append_record(plan.out, record)
        print(f"{name}: F1 {record['f1']:.2f} in {record['seconds']['total']:.0f} s", flush=True)
    return failed


def _plan(args: argparse.Namespace) -> Plan:
    scale = SCALES.get(args.scale, _DEFAULT)
    triggers = load_triggers(args.triggers)
    cells = expand(args.cells or scale.cells)
    unknown = {cell.trigger for cell in cells if cell.mode != "clean"} - {*triggers, *BUILT_IN}
    if unknown:
        raise ValueError(
            f"no trigger {', '.join(sorted(unknown))}; at hand: {known_triggers(triggers)}; more with --triggers DIR"
        )
    seeds = args.seeds or scale.seeds
    clean_seeds = args.clean_seeds or args.seeds or scale.clean_seeds
    pairs = [(cell, seed) for cell in cells for seed in (clean_seeds if cell.mode == "clean" else seeds)]
    part, parts = args.part
    limit = args.limit or scale.limit
    return Plan(
        data=load_data(args.data, limit),
        triggers=triggers,
        cells=pairs[part - 1 :: parts],
        methods=choose(args.methods or scale.methods),
        limit=limit,
        device=resolve_device(args.device),
        out=args.out,
    )


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"expected i/N with 1 <= i <= N, got {text!r}")
    return int(part), int(parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train-*.parquet (image, label), or demo")
    parser.add_argument("--triggers", type=Path, help="folder with NAME.png and NAME_mask.png; built-in ones need none")
    parser.add_argument(
        "--cells", nargs="+", help=f"{', '.join(GROUPS)}, patterns, or MODE/TRIGGER[/BLEND[/RATIO]][+VARIATION...]"
    )
    parser.add_argument("--methods", nargs="+", help="default, paper, a rival's name, or rivals for all of them")
    parser.add_argument("--seeds", nargs="+", type=int, help="of the draw; the target label of all-to-one cells")
    parser.add_argument("--clean-seeds", nargs="+", type=int, help="seeds of clean cells, where others are wanted")
    parser.add_argument("--scale", choices=SCALES, help="a set of cells, methods, seeds and limit; options above win")
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="i/N", help="only every N-th cell and seed")
    parser.add_argument("--out", type=Path, default=Path("results.jsonl"))
    parser.add_argument("--limit", type=int, help="only the first so many samples")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="threads of torch; two runs side by side want one each")
    return parser


if __name__ == "__main__":
    main()
