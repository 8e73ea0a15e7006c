"""What records and published runs say about a set of cells: F1 by column and seed, means and spreads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from benchmarks.cells import Cell
from benchmarks.published import Published
from benchmarks.records import Record

CEILING = "ceiling"
FLAG_EVERYTHING = "flag everything"
OURS = ("default", "paper")


@dataclass(frozen=True, slots=True)
class Spread:
    """Figures of several seeds."""

    values: tuple[float, ...]

    def __str__(self) -> str:
        """The mean, and the sample standard deviation as in the paper where there are two seeds or more."""
        if not self.values:
            return ""
        if len(self.values) == 1:
            return f"{self.values[0]:.2f}"
        return f"{self.mean:.2f} ± {stdev(self.values):.2f}"

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return mean(self.values)


@dataclass(frozen=True, slots=True)
class Figures:
    """F1 in % of each data set, cell and column, by seed."""

    f1: Mapping[tuple[str, str, str], Mapping[int, float]]
    """By (data set, cell, column); a column is a method, or "published ..." ."""

    @classmethod
    def gather(cls, records: Iterable[Record], published: Published) -> Figures:
        """Return the figures of records and of published runs; a data set cut short is another data set."""
        f1: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
        for record in records:
            f1[data_name(record), record["cell"], record["method"]][record["seed"]] = record["f1"]
        for (data, cell, method), runs in published.items():
            f1[data, cell, published_column(method)] = runs
        return cls(dict(f1))

    def spread(self, data: str, cell: Cell, column: str) -> Spread:
        """Return the figures of one place of a table; empty where nothing was measured."""
        if column == FLAG_EVERYTHING:
            return Spread((flag_everything(cell.ratio),))
        runs = self.f1.get((data, cell.name, column), {})
        return Spread(tuple(runs[seed] for seed in sorted(runs)))

    def average(self, pairs: Sequence[tuple[str, Cell]], column: str) -> Spread:
        """Return the average over data sets and cells, one figure per seed that all of them have, as in the paper.

        Where they share no seed, the one figure is the mean over the cells' means. Empty if a cell has no figure.
        """
        if column == FLAG_EVERYTHING:
            return Spread((mean(flag_everything(cell.ratio) for _, cell in pairs),)) if pairs else Spread(())
        runs = [self.f1.get((data, cell.name, column), {}) for data, cell in pairs]
        if not runs or not all(runs):
            return Spread(())
        shared = sorted(set.intersection(*(set(by_seed) for by_seed in runs)))
        if len(shared) < max(map(len, runs)):
            return Spread((mean(mean(by_seed.values()) for by_seed in runs),))
        return Spread(tuple(mean(by_seed[seed] for by_seed in runs) for seed in shared))


def data_name(record: Record) -> str:
    """Return the data set of a record as tables name it: `cifar10`, or `cifar10[:5000]` where it was cut short."""
    return str(record["data"]) + (f"[:{record['limit']}]" if record["limit"] else "")


def listed(seeds: Iterable[int]) -> str:
    """Return seeds as tables name them: "0, 1, 2"."""
    return ", ".join(map(str, sorted(seeds)))


def published_column(method: str) -> str:
    """Return the column of a published method."""
    return f"published {method}"


def flag_everything(ratio: float) -> float:
    """Return the F1 in % of flagging all samples when a share `ratio` of them is poisoned: 2r / (1 + r)."""
    return 200 * ratio / (1 + ratio)


def methods_in(records: Iterable[Record]) -> list[str]:
    """Return the methods of records: ours, then the others by name, the ceiling left out."""
    names = {record["method"] for record in records} - {CEILING}
    return [name for name in OURS if name in names] + sorted(names - {*OURS})
