"""Measure detection on the cells of the paper's tables and beyond, one JSON line per run; resumable.

    python -m benchmarks.detection --data DIR --triggers DIR --cells table1 'a2a/*/0.1/*' clean a2o/white_grid+jpeg75 \\
        --methods default paper abl --seeds 0 1 2 --out results/cifar10.jsonl
    python -m benchmarks.detection --data demo --scale smoke
    python -m benchmarks.tables results/cifar10.jsonl

A run that already stands in the file is not repeated; Ctrl-C leaves the file whole. A run that fails is told of and
left out, and the status is 1 in the end. The truth serves for scoring only.
"""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.cells import Cell
from benchmarks.data import make_trial
from benchmarks.machine import environment, forget_peak, peak_memory
from benchmarks.methods import Method
from benchmarks.plan import Plan, carry_out, make_parser, make_plan
from benchmarks.records import Record
from benchmarks.roster import RivalOptions, choose
from benchmarks.scales import SCALES, Scale
from benchmarks.scoring import score

_DEFAULT = Scale(cells=("clean",), methods=("default",), seeds=(0,), clean_seeds=(0,))


def main() -> None:
    """Run what the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("--methods", nargs="+", help="default, paper, a rival's name, or rivals for all of them")
    parser.add_argument(
        "--rival-settings", nargs="+", default=[], help="such as width=16 victim_epochs=10 abl_epochs=5"
    )
    parser.add_argument("--victims", type=Path, help="where the rivals' trained models are kept between runs")
    args = parser.parse_args()
    scale = SCALES.get(args.scale, _DEFAULT)
    try:
        methods = choose(args.methods or scale.methods, RivalOptions.parse(args.rival_settings, args.victims))
        plan = make_plan(args, scale)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    carry_out(plan, [*methods], lambda head, cell, plan: run(head, cell, plan, methods[head["method"]]))


def run(head: Record, cell: Cell, plan: Plan, method: Method) -> Record:
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


if __name__ == "__main__":
    main()
