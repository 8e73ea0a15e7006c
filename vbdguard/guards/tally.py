"""What a guarded stream did, counted while it runs in any number of processes.

Each pass, one run of a stream from its start in one process, has a row of numbers in one file; the process maps its
row and counts in it, so that everybody can read at any time, and nothing is lost when a worker is killed.

What an epoch is: the n-th pass of each worker is epoch n - 1, whether workers persist or start anew, fork or spawn.
Workers are told apart by the process whose loader they serve and by their number in it. A loader that is left early
has begun its epoch. A pipeline that repeats its shards within one loop (`.repeat()`, `.with_epoch()` on a list of
shards that is not resampled) begins a pass, and thus an epoch, with each repetition. Two loaders on one stream
count side by side. Each process that calls guard(), such as each rank of a distributed job, has counts of its own.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from vbdguard.errors import VBDGuardError
from vbdguard.guards.counts import DropCounts, EpochCounts

_LANE = 2
"""Numbers in front of each row that say who counts: the loader's process and the worker (-1: none)."""
_ITEM = 8


class Tally:
    """The counts of one guarded stream; picklable, all copies count together.

    Args:
        classes: number and name of each class that has flagged samples; others never lose a sample by policy.
        shows_names: whether counts are under names, for data whose labels are names.
    """

    def __init__(self, classes: Sequence[tuple[int, str]], *, shows_names: bool = False) -> None:
        self.classes = tuple(classes)
        self._shows_names = shows_names
        descriptor, name = tempfile.mkstemp(prefix="vbdguard-", suffix=".tally")
        os.close(descriptor)
        self._path = Path(name)
        self._file: _File | None = _File(self._path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._file = _FILES.get(self._path)

    def begin(self) -> PassCount:
        """Begin a pass in this process.

        Raises:
            VBDGuardError: if the file has gone.
        """
        row = np.zeros(_LANE + 2 + 3 * len(self.classes), dtype=np.int64)
        row[:_LANE] = _lane()
        try:
            with FileLock(f"{self._path}.lock"), self._path.open("r+b") as file:
                start = file.seek(0, os.SEEK_END)
                file.write(row.tobytes())
                file.flush()
                # A map begins on a page, whatever stands before the row.
                page = start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
                mapped = mmap.mmap(file.fileno(), start + row.nbytes - page, offset=page)
        except OSError as error:
            raise VBDGuardError(
                f"{self._path}: cannot count what the guard does: {error}; the process that called vbdguard.guard(), "
                "and what it returned there, must live as long as the training"
            ) from error
        return PassCount(memoryview(mapped).cast("q")[(start - page) // _ITEM + _LANE :], self.classes)

    @property
    def counts(self) -> DropCounts:
        """What was counted so far, in all processes, epoch by epoch."""
        width = _LANE + 2 + 3 * len(self.classes)
        try:
            rows: NDArray[np.int64] = np.fromfile(self._path, dtype=np.int64).reshape(-1, width)
        except OSError as error:
            raise VBDGuardError(f"{self._path}: the counts have gone with the process that made them") from error
        passes: Counter[tuple[int, int]] = Counter()
        sums: list[NDArray[np.int64]] = []
        for row in rows:
            lane = (int(row[0]), int(row[1]))
            if passes[lane] == len(sums):
                sums.append(np.zeros(width - _LANE, dtype=np.int64))
            sums[passes[lane]] += row[_LANE:]
            passes[lane] += 1
        return DropCounts(tuple(self._epoch(number, values) for number, values in enumerate(sums)))

    def _epoch(self, number: int, values: NDArray[np.int64]) -> EpochCounts:
        dropped, relabelled, let_pass = values[2:].reshape(3, len(self.classes)).tolist()
        return EpochCounts(
            epoch=number,
            passed=int(values[0]),
            dropped=self._by_class(dropped),
            relabelled=self._by_class(relabelled),
            unscanned=int(values[1]),
            let_pass=self._by_class(let_pass),
        )

    def _by_class(self, counts: Sequence[int]) -> Mapping[int | str, int]:
        shown: list[int | str] = [name if self._shows_names else number for number, name in self.classes]
        return {label: count for label, count in zip(shown, counts, strict=True) if count}


class _File:
    """Holds a file of counts: it goes with the last tally of its process, not with those in other processes."""

    def __init__(self, path: Path) -> None:
        weakref.finalize(self, _remove, path, os.getpid())
        _FILES[path] = self


_FILES: weakref.WeakValueDictionary[Path, _File] = weakref.WeakValueDictionary()


class PassCount:
    """The numbers of one pass; `numbers[PASSED] += 1` is all that a sample costs.

    Args:
        numbers: int64 (2 + 3 F,): passed, unscanned, and for each of F classes dropped, relabelled, let pass.
        classes: number and name of the F classes; both find their place, whichever a sample bears.
    """

    PASSED = 0
    UNSCANNED = 1

    __slots__ = ("_places", "_width", "numbers")

    def __init__(self, numbers: memoryview, classes: Sequence[tuple[int, str]]) -> None:
        self.numbers = numbers
        self._width = len(classes)
        self._places = {label: place for place, labels in enumerate(classes) for label in labels}

    def dropped(self, label: int | str) -> None:
        """Count a flagged sample that was left out."""
        self._count(0, label)

    def relabelled(self, label: int | str) -> None:
        """Count a flagged sample that was handed on under another class."""
        self._count(1, label)

    def let_pass(self, label: int | str) -> None:
        """Count a flagged sample that was handed on as it is."""
        self._count(2, label)

    def _count(self, kind: int, label: int | str) -> None:
        self.numbers[2 + kind * self._width + self._places[label]] += 1


def _lane() -> tuple[int, int]:
    from torch.utils.data import get_worker_info

    worker: Any = get_worker_info()
    return (os.getpid(), -1) if worker is None else (os.getppid(), worker.id)


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker inherits the finalizer
        path.unlink(missing_ok=True)
        Path(f"{path}.lock").unlink(missing_ok=True)
