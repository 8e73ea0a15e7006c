from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.plot import draw

pytest.importorskip("matplotlib")


def record(cell: str, method: str = "default", seed: int = 0, f1: float = 90.0) -> dict[str, Any]:
    return {"data": "cifar10", "limit": None, "cell": cell, "seed": seed, "method": method, "f1": f1}


def test_the_plot_is_the_same_file_for_the_same_records(tmp_path: Path) -> None:
    records = [record(f"a2o/white_square/{blend}/0.1", seed=seed) for blend in (0.1, 0.5, 1) for seed in range(2)]
    published = {("cifar10", "a2o/white_square/1/0.1", "VBD"): {0: 97.0}}
    first, second = tmp_path / "1.svg", tmp_path / "2.svg"
    draw(records, published, first)
    draw(records, published, second)
    assert first.read_bytes() == second.read_bytes()
    draw([*records, record("a2o/white_square/0.2/0.1", f1=10.0)], published, second)
    assert first.read_bytes() != second.read_bytes()
    assert ElementTree.parse(first).getroot().tag.endswith("svg")


def test_records_of_other_cells_alone_make_no_plot(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cells to plot"):
        draw([record("clean"), record("a2o/white_square/1/0.01")], {}, tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())
