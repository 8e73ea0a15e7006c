"""The data that cells are made of: a folder of parquet shards, or the demo's crops; and the tasks made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.cells import Cell, load_parquet
from benchmarks.methods import Task
from vbdguard.attacks.triggers import Trigger

CLEAN_PER_CLASS = 10
"""Clean samples per class for the methods that need some (paper, section 4.1)."""
DEMO = "demo"
_DEMO_PER_CLASS = 500


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """A data set before any attack."""

    name: str
    images: NDArray[np.uint8]
    """uint8 (N, H, W, 3)."""
    labels: NDArray[np.int64]
    """int64 (N,), 0 to K - 1."""
    test_images: NDArray[np.uint8] | None = None
    test_labels: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A task with the truth about it."""

    task: Task
    is_poisoned: NDArray[np.bool_]
    """bool (N,)."""
    clean_from: str | None
    """Split that the clean samples come from, where the method needs some."""


def load_data(source: str, limit: int | None) -> Data:
    """Return the training split, and the test split where there is one.

    Args:
        source: a folder with train-*.parquet and perhaps test-*.parquet (columns image, label), or `demo`: crops of
            the photographs in scikit-image's wheel, which need no file.
        limit: only the first so many training samples.

    Raises:
        FileNotFoundError: if the folder holds no training shard.
    """
    if source == DEMO:
        images, labels = _demo(_DEMO_PER_CLASS, seed=0)
        return Data(DEMO, images[:limit], labels[:limit], *_demo(2 * CLEAN_PER_CLASS, seed=1))
    folder = Path(source)
    if not list(folder.glob("train-*.parquet")):
        raise FileNotFoundError(f"{folder}: expected train-*.parquet in it; pass such a folder, or demo")
    train = load_parquet(folder, limit)
    if not list(folder.glob("test-*.parquet")):
        return Data(folder.resolve().name, *train)
    return Data(folder.resolve().name, *train, *load_parquet(folder, split="test"))


def make_trial(cell: Cell, data: Data, triggers: dict[str, Trigger], seed: int, needs: frozenset[str]) -> Trial:
    """Return the cell's task with what a method needs, and nothing that it does not.

    Clean samples come from the test split; a data set without one gives up as many of its training samples.

    Raises:
        ValueError: if the cell does not fit the data, or a class has too few clean samples.
    """
    if "clean" in needs and cell.variation.drawn is not None:
        raise ValueError("expected no +drawnK with a method that needs clean samples: theirs are those of all classes")
    clean = _draw_clean(data, seed) if "clean" in needs else None
    if clean is not None and clean.spent is not None:
        kept = np.setdiff1d(np.arange(len(data.labels)), clean.spent)
        data = replace(data, images=data.images[kept], labels=data.labels[kept])
    poisoned = cell.poison(data.images, data.labels, triggers, seed)
    n_classes = int(poisoned.labels.max()) + 1
    chosen = clean.labels < n_classes if clean else None
    task = Task(
        images=poisoned.images,
        labels=poisoned.labels,
        n_classes=n_classes,
        clean_images=cell.variation.finish(clean.images[chosen]) if clean else None,
        clean_labels=clean.labels[chosen] if clean else None,
        ratio=(float(poisoned.is_poisoned.mean()) or _SUPPOSED_RATIO) if "ratio" in needs else None,
    )
    return Trial(task, poisoned.is_poisoned, clean.source if clean else None)


_SUPPOSED_RATIO = 0.1
"""What a method that must be told the share of poison is told of clean data: whoever scans those does not know it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Clean:
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    source: str
    spent: NDArray[np.int64] | None
    """Indices that the training split gave up, where there is no test split."""


def _draw_clean(data: Data, seed: int) -> _Clean:
    if data.test_images is not None and data.test_labels is not None:
        drawn = _draw_per_class(data.test_labels, seed)
        return _Clean(data.test_images[drawn], data.test_labels[drawn], "test", None)
    drawn = _draw_per_class(data.labels, seed)
    return _Clean(data.images[drawn], data.labels[drawn], "train, held out", drawn)


def _draw_per_class(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the indices of ten random samples of each class, ascending."""
    rng = np.random.default_rng(seed)
    drawn = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < CLEAN_PER_CLASS:
            raise ValueError(f"expected {CLEAN_PER_CLASS} clean samples of class {label}, there are {len(members)}")
        drawn.append(rng.permutation(members)[:CLEAN_PER_CLASS])
    return np.sort(np.concatenate(drawn))


def _demo(per_class: int, *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from vbdguard.cli.demo_data import DemoSet  # type: ignore[import-not-found]  # lies in cli/ until installed

    drawn = list(DemoSet(per_class, seed).samples())
    return (
        np.stack([np.asarray(sample.image) for sample in drawn]),
        np.array([sample.label for sample in drawn], dtype=np.int64),
    )
