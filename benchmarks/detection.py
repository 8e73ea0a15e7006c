"""Measure detection on the cells of the paper's tables, one JSON line per run; resumable.

    python -m benchmarks.detection --data DIR --triggers DIR --cells a2o/white_square a2a/white_grid/0.5 clean \
        --seeds 0 1 2 --presets default paper --out results.jsonl
    python -m benchmarks.detection --table results.jsonl [--published RESULTS.csv]

A run that already stands in the file is not repeated. The truth is used for scoring only.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, pstdev
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cells import Cell, known_triggers, load_parquet, load_triggers
from benchmarks.machine import commit, environment
from benchmarks.published import load_published
from vbdguard.config import MethodConfig
from vbdguard.method.device import resolve_device
from vbdguard.method.pipeline import Detection, detect
from vbdguard.method.samples import Samples

_COLUMNS = (
    *("data", "cell", "preset", "seeds", "F1 %", "published %"),
    *("precision %", "recall %", "false flags", "classes right / wrong", "s"),
)


def main() -> None:
    """Run what the command line asks for."""
    args = _arguments()
    if args.table:
        published = load_published(args.published) if args.published else {}
        print(table([json.loads(line) for line in args.table.read_text().splitlines()], published))
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    done = {_identity(json.loads(line)) for line in args.out.read_text().splitlines()} if args.out.exists() else set()
    commit()
    images, labels = load_parquet(args.data, args.limit)
    triggers = load_triggers(args.triggers)
    for text in args.cells:
        cell = Cell.parse(text)
        for seed in args.seeds:
            for preset in args.presets:
                head = {"data": args.data.name, "cell": cell.name, "seed": seed, "preset": preset}
                if _identity(head) in done:
                    continue
                record = head | _run(cell, preset, seed, images, labels, triggers, args.device)
                with args.out.open("a") as out:
                    out.write(json.dumps(record) + "\n")
                print(f"{cell.name} seed {seed} {preset}: F1 {record['f1']:.2f} in {record['seconds']['total']:.0f} s")


def table(records: list[dict[str, Any]], published: Mapping[tuple[str, str], float] = MappingProxyType({})) -> str:
    """Return a Markdown table of the records: one row per cell and preset, mean and spread over seeds.

    Args:
        records: as the runs wrote them.
        published: mean F1 in % of the paper by (data set, cell), for the column beside ours.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record["data"], record["cell"], record["preset"]].append(record)
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    for (data, cell, preset), group in sorted(groups.items()):
        f1 = [record["f1"] for record in group]
        cells = [data, cell, preset, ", ".join(str(record["seed"]) for record in group)]
        cells.append(f"{mean(f1):.2f} ± {pstdev(f1):.2f}" if cell != "clean" else "")
        cells.append(f"{published[data, cell]:.2f}" if (data, cell) in published else "")
        cells += [
            f"{mean(record[name] for record in group):.2f}" for name in ("precision", "recall", "false_positives")
        ]
        right, wrong = (sum(record[name] for record in group) for name in ("classes_right", "classes_wrong"))
        cells += [f"{right} / {wrong}", f"{mean(record['seconds']['total'] for record in group):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _run(
    cell: Cell,
    preset: Any,
    seed: int,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    triggers: dict[str, Any],
    device_name: str,
) -> dict[str, Any]:
    try:
        data = cell.poison(images, labels, triggers, seed)
    except ValueError as error:
        raise SystemExit(f"{cell.name}: {error}; triggers at hand: {known_triggers(triggers)}") from error
    device = resolve_device(device_name)
    samples = Samples(
        torch.from_numpy(data.images).to(device), torch.from_numpy(data.labels).to(device), int(data.labels.max()) + 1
    )
    start = time.perf_counter()
    detection = detect(samples, MethodConfig.preset(preset), seed=seed)
    seconds = {**detection.seconds, "total": time.perf_counter() - start}
    return _score(detection, data.is_poisoned, data.labels) | {
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "environment": environment(str(device)),
    }


def _score(detection: Detection, truth: NDArray[np.bool_], labels: NDArray[np.int64]) -> dict[str, Any]:
    flagged = detection.is_flagged.cpu().numpy()
    hits, false = int((flagged & truth).sum()), int((flagged & ~truth).sum())
    missed = int((~flagged & truth).sum())
    attacked = set(labels[truth].tolist())
    accused = {finding.label for finding in detection.classes if finding.is_poisoned}
    return {
        "f1": round(200 * hits / max(1, 2 * hits + false + missed), 3),
        "precision": round(100 * hits / max(1, hits + false), 3),
        "recall": round(100 * hits / max(1, hits + missed), 3),
        "false_positives": false,
        "false_positive_rate": round(100 * false / max(1, int((~truth).sum())), 4),
        "classes_right": len(accused & attacked),
        "classes_wrong": len(accused - attacked),
        "classes_attacked": len(attacked),
    }


def _identity(record: dict[str, Any]) -> tuple[Any, ...]:
    return record["data"], record["cell"], record["seed"], record["preset"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train-*.parquet (image, label)")
    parser.add_argument("--triggers", type=Path, help="folder with NAME.png and NAME_mask.png")
    parser.add_argument("--cells", nargs="+", default=["clean"], help="clean, or MODE/TRIGGER[/BLEND[/RATIO]]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--presets", nargs="+", default=["default"], choices=["default", "paper"])
    parser.add_argument("--out", type=Path, default=Path("results.jsonl"))
    parser.add_argument("--limit", type=int, help="only the first so many samples")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="threads of torch; two runs side by side want one each")
    parser.add_argument("--table", type=Path, help="print the table of a results file and stop")
    parser.add_argument("--published", type=Path, help="CSV of the paper's runs, for a column of the table")
    args = parser.parse_args()
    if not args.table and not args.data:
        parser.error("--data is needed to run anything")
    return args


if __name__ == "__main__":
    main()
