"""The overhead benchmark measures a guard that is on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.guard_map_style import MAP_STYLE, make_epochs, tensors
from benchmarks.guard_overhead import measure, table


def test_the_guarded_epoch_lacks_the_flagged_tenth(tmp_path: Path) -> None:
    plain, guarded = make_epochs(tensors, tmp_path, 60, 0)
    assert (plain(), guarded()) == (60, 54)


@pytest.mark.parametrize("case", MAP_STYLE)
def test_every_case_gives_a_line_and_a_row(case: str, tmp_path: Path) -> None:
    record = asdict(measure(case, folder=tmp_path, workers=0, samples=40, repeats=2))
    assert record["case"] == case
    assert record["ratio_low"] <= record["ratio"] <= record["ratio_high"]
    assert record["processor_ratio"] > 0
    assert table([record]).splitlines()[-1].startswith(f"| {case} | 0 | 40 |")
