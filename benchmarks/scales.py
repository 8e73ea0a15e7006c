"""How much to measure: a purse of minutes, of a night, or of a GPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What a size stands for; each part yields to the option of its name."""

    cells: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    clean_seeds: tuple[int, ...]
    """Seeds of the clean cells: an alarm is a matter of chance, so it takes more of them."""
    limit: int | None = None
    """Only the first so many samples."""


SCALES = {
    # Minutes on two cores: 5,000 samples give a class enough poison to be found.
    "smoke": Scale(cells=("clean", "a2o/white_grid"), methods=("default",), seeds=(0,), clean_seeds=(0,), limit=5_000),
    # A night on two cores, split with --part 1/2 and --part 2/2: 300 s for an all-to-one cell, 1,200 s all-to-all.
    "cpu": Scale(cells=("paper", "clean"), methods=("default",), seeds=(0,), clean_seeds=tuple(range(10))),
    "gpu": Scale(
        cells=("paper", "clean", "extra"),
        methods=("default", "paper", "rivals"),
        seeds=tuple(range(5)),
        clean_seeds=tuple(range(10)),
    ),
}
