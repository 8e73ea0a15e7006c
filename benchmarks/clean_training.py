"""Measure stage 7: how far a model obeys a trigger, trained with the guard and without; resumable.

    python -m benchmarks.clean_training --data DIR --triggers DIR --cell a2o/white_grid --seeds 0 1 --model small \
        --threads 1 --out results.jsonl
    python -m benchmarks.clean_training --table results.jsonl

Each run trains three models of one kind with one seed and appends one JSON line: `unguarded` on the poisoned data,
`guarded` on what the scan has kept of them, `clean` on the data before the poisoning. Test samples were never poisoned;
the attack success rate is that of the true trigger. A run that already stands in the file is not repeated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from benchmarks.cells import MODES, Cell, load_parquet, load_triggers
from benchmarks.machine import commit, environment
from vbdguard.attacks.copying import PoisonSettings
from vbdguard.config import ScanConfig
from vbdguard.ingest.reader import ingest
from vbdguard.method.device import resolve_device
from vbdguard.progress import Silent
from vbdguard.training.course import Course, resolve_dtype
from vbdguard.training.exam import prepare_exam
from vbdguard.training.lessons import everything
from vbdguard.training.pixels import Normalization, PixelFeed
from vbdguard.training.result import TrainingResult
from vbdguard.training.settings import resolve_settings
from vbdguard.training.train import train_clean
from vbdguard.training.workshop import Workshop

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


class ArrayData(Dataset[tuple[NDArray[np.uint8], int]]):
    """Images uint8 (N, H, W, 3) with their labels (N,), as a map-style dataset."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        if index >= len(self):
            raise IndexError(index)
        return self._images[index], int(self._labels[index])


def main() -> None:
    """Run what the command line asks for."""
    args = _arguments()
    if args.table:
        print(table([json.loads(line) for line in args.table.read_text().splitlines()]))
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    done = {_identity(json.loads(line)) for line in args.out.read_text().splitlines()} if args.out.exists() else set()
    commit()
    train = load_parquet(args.data, args.limit)
    test = load_parquet(args.data, args.limit, split="test")
    for seed in args.seeds:
        head = {
            "data": args.data.name,
            "cell": Cell.parse(args.cell).name,
            "seed": seed,
            "model": args.model,
            "policy": args.policy,
            "epochs": args.epochs,
            "augment": not args.no_augment,
        }
        if _identity(head) in done:
            continue
        record = head | _run(args, seed, train, test)
        with args.out.open("a") as out:
            out.write(json.dumps(record) + "\n")
        print(table([record]))


def table(records: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the records: one row per setting, mean and spread over seeds."""
    names = ("data", "cell", "model", "policy", "epochs", "augment")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[tuple(record[name] for name in names)].append(record)
    heads = (
        "seeds",
        "ASR % unguarded",
        "ASR % guarded",
        "accuracy % unguarded",
        "guarded",
        "clean data",
        "poison kept",
    )
    lines = [f"| {' | '.join((*names, *heads))} |", "|---" * (len(names) + len(heads)) + "|"]
    for setting, group in groups.items():
        cells = [*map(str, setting), ", ".join(str(record["seed"]) for record in group)]
        for name in ("asr_unguarded", "asr_guarded", "accuracy_unguarded", "accuracy_guarded", "accuracy_clean"):
            values = [record[name] for record in group]
            cells.append(f"{mean(values):.2f} ± {pstdev(values):.2f}")
        cells.append(", ".join(str(record["poison_kept"]) for record in group))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _run(args: argparse.Namespace, seed: int, train: Arrays, test: Arrays) -> dict[str, Any]:
    cell = Cell.parse(args.cell)
    triggers = load_triggers(args.triggers)
    start = time.perf_counter()
    poisoned = cell.poison(*train, triggers, seed)
    result = train_clean(
        ArrayData(poisoned.images, poisoned.labels),
        test_source=ArrayData(*test),
        attack=PoisonSettings(
            trigger=cell.trigger_among(triggers),
            blend_factor=cell.blend_factor,
            mode="all-to-one" if MODES[cell.mode] == "all-to-one" else "all-to-all",
            target=seed,
        ),
        compare=True,
        **_options(args, seed),
    )
    clean_accuracy = _train_on_clean_data(args, seed, train, test)
    flagged = {int(entry.key) for entry in result.report.flagged}
    truth = set(np.flatnonzero(poisoned.is_poisoned).tolist())
    return {
        **_percentages(result),
        "accuracy_clean": _percent(clean_accuracy),
        "poisoned": len(truth),
        "poison_kept": len(truth - flagged),
        "false_flags": len(flagged - truth),
        "settings": result.settings,
        "seconds": {**result.seconds, "all": round(time.perf_counter() - start, 1)},
        "environment": environment(str(resolve_device(args.device))),
    }


def _options(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    return {
        "model": args.model,
        "epochs": args.epochs,
        "policy": args.policy,
        "augment": not args.no_augment,
        "seed": seed,
        "device": args.device,
        "config": ScanConfig(seed=seed, device=args.device),
        "cache_dir": args.cache,
        "use_cache": args.cache is not None,
    }


def _train_on_clean_data(args: argparse.Namespace, seed: int, train: Arrays, test: Arrays) -> float:
    """Return the accuracy of a model trained on all of the data before the poisoning, without any scan."""
    device = resolve_device(args.device)
    settings = resolve_settings(
        args.model,
        policy="suppress",
        has_initial_weights=False,
        seed=seed,
        epochs=args.epochs,
        augment=not args.no_augment,
    )
    with tempfile.TemporaryDirectory() as folder:
        store, exam_store = (ingest(ArrayData(*data), store_dir=Path(folder)).store for data in (train, test))
        lessons = everything(store)
        normalization, dtype = Normalization.measure(store, lessons.indices), resolve_dtype("auto", device)
        K = len(store.class_labels)
        course = Course(lessons, PixelFeed(store, device), normalization, settings, K, device, dtype)
        workshop = Workshop(
            store=store,
            dataset_digest="",
            model=args.model,
            initial=None,
            checkpoint_dir=None,
            resume=False,
            progress=Silent(),
        )
        network = workshop.build(course)
        workshop.train(network, course, title="clean data")
        return prepare_exam(exam_store, store, (), course).grade(network).accuracy


def _percentages(result: TrainingResult) -> dict[str, float]:
    return {
        "asr_unguarded": _percent(result.attack_success_rate_before),
        "asr_guarded": _percent(result.attack_success_rate),
        "accuracy_unguarded": _percent(result.clean_accuracy_before),
        "accuracy_guarded": _percent(result.clean_accuracy),
    }


def _percent(share: float | None) -> float:
    if share is None:
        raise ValueError("expected a share in [0, 1], got none: the exam did not take place")
    return round(100 * share, 3)


def _identity(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("data", "cell", "seed", "model", "policy", "epochs", "augment"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train-*.parquet and test-*.parquet (image, label)")
    parser.add_argument("--triggers", type=Path, help="folder with NAME.png and NAME_mask.png")
    parser.add_argument("--cell", default="a2o/white_grid", help="MODE/TRIGGER[/BLEND[/RATIO]]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--model", default="small")
    parser.add_argument("--policy", default="suppress", choices=["suppress", "relabel", "unlearn"])
    parser.add_argument("--epochs", type=int, help="default: the model's recipe")
    parser.add_argument("--no-augment", action="store_true")
    parser.add_argument("--cache", type=Path, help="where scans are kept between runs")
    parser.add_argument("--out", type=Path, default=Path("results.jsonl"))
    parser.add_argument("--limit", type=int, help="only the first so many samples of each split")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="threads of torch; two runs side by side want one each")
    parser.add_argument("--table", type=Path, help="print the table of a results file and stop")
    args = parser.parse_args()
    if not args.table and not args.data:
        parser.error("--data is needed to run anything")
    return args


if __name__ == "__main__":
    main()
