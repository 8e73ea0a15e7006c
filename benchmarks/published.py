"""The published results beside ours: the paper's runs, per cell and seed, from the CSV file that its authors gave out.

The file is theirs and no part of this project; whoever wants the column passes its path.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean

ALL_TO_ALL = "1_1"
"""How the file marks all-to-all runs; all-to-one ones name their target as `0_all`."""


def load_published(path: Path, defense: str = "vbd") -> dict[tuple[str, str], float]:
    """Return the mean F1 in % over the published seeds by (data set, cell), a cell named as `Cell.name` names it.

    A run that found nothing stands in the file with an empty F1 and counts 0, as in the paper's tables.

    Args:
        path: CSV with the columns Dataset, Pattern, Target_Class, Blending, seed, Defense and F1.
        defense: whose results.
    """
    runs: dict[tuple[str, str], list[float]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["Defense"] == defense:
                runs[row["Dataset"], _cell(row)].append(100 * float(row["F1"] or 0))
    return {key: mean(values) for key, values in runs.items()}


def _cell(row: dict[str, str]) -> str:
    mode = "a2a" if row["Target_Class"] == ALL_TO_ALL else "a2o"
    # `load_triggers` shortens the names of the trigger files in the same way.
    pattern = "_".join(word for word in row["Pattern"].split("_") if word not in ("trigger", "hello"))
    return f"{mode}/{pattern}/{float(row['Blending']):g}/0.1"
