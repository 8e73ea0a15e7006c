"""The published results beside ours: the paper's runs, per cell and seed, from the CSV file that its authors gave out.

The file is theirs and no part of this project; whoever wants the columns passes its path.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

ALL_TO_ALL = "1_1"
"""How the file marks all-to-all runs; all-to-one ones name their target as `0_all`."""

VBD = "VBD"
COUNTERPARTS = {"default": VBD, "paper": VBD, "abl": "ABL", "agpd": "AGPD", "scan": "SCAn"}
"""Which published method a method of the bench stands beside."""

_DATA = {"cifar10": "cifar10", "tiny": "tiny-imagenet-100"}
"""The file's data sets and our folders; the paper had all 200 classes of Tiny ImageNet, the folder has 100 of them."""
PAPERS_DATA = tuple(_DATA.values())
"""The data sets of the paper's 80 cells, by the names of our folders."""
_TEN_CLEAN_PER_CLASS = {"cifar10": "100", "tiny": "2000"}
"""AGPD and SCAn stand in the file with two numbers of clean samples; the tables show those with ten per class."""

Published = dict[tuple[str, str, str], dict[int, float]]


def load_published(path: Path) -> Published:
    """Return the F1 in % by seed of each (data set, cell, method), a cell named as `Cell.name` names it.

    A run that found nothing stands in the file with an empty F1 and counts 0, as in the paper's tables.

    Args:
        path: CSV with the columns Dataset, Pattern, Target_Class, Blending, seed, Defense and F1.

    Raises:
        ValueError: if a column is missing.
    """
    runs: Published = defaultdict(dict)
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = {"Dataset", "Pattern", "Target_Class", "Blending", "seed", "Defense", "F1"} - {
            *(reader.fieldnames or ())
        }
        if missing:
            raise ValueError(f"{path}: expected the published runs, columns {', '.join(sorted(missing))} are missing")
        for row in reader:
            method = _methods(row["Dataset"]).get(row["Defense"])
            if method:
                key = _DATA.get(row["Dataset"], row["Dataset"]), _cell(row), method
                runs[key][int(row["seed"])] = 100 * float(row["F1"] or 0)
    return dict(runs)


def _methods(data: str) -> dict[str, str]:
    clean = _TEN_CLEAN_PER_CLASS.get(data, "")
    return {"vbd": VBD, "abl": "ABL", f"agpd_{clean}": "AGPD", f"scan_{clean}": "SCAn"}


def _cell(row: dict[str, str]) -> str:
    mode = "a2a" if row["Target_Class"] == ALL_TO_ALL else "a2o"
    # `load_triggers` shortens the names of the trigger files in the same way.
    pattern = "_".join(word for word in row["Pattern"].split("_") if word not in ("trigger", "hello"))
    return f"{mode}/{pattern}/{float(row['Blending']):g}/0.1"
