from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.published import load_published

ROWS = """Dataset,Pattern,Target_Class,Blending,seed,Defense,F1
cifar10,trigger_white_square,0_all,1.0,0,vbd,0.5
cifar10,trigger_white_square,1_all,1.0,1,vbd,1.0
cifar10,trigger_white_square,1_1,0.1,0,vbd,0.25
cifar10,trigger_white_square,1_1,0.1,1,vbd,
cifar10,trigger_white_square,0_all,1.0,0,abl,0.1
tiny,small_hello_picture,0_all,0.5,0,vbd,0.75
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    path.write_text(ROWS)
    return path


def test_runs_are_averaged_over_seeds_and_one_that_found_nothing_counts_nought(path: Path) -> None:
    assert load_published(path) == {
        ("cifar10", "a2o/white_square/1/0.1"): pytest.approx(75.0),
        ("cifar10", "a2a/white_square/0.1/0.1"): pytest.approx(12.5),
        ("tiny", "a2o/small_picture/0.5/0.1"): pytest.approx(75.0),
    }


def test_another_method_has_its_own_figures(path: Path) -> None:
    assert load_published(path, "abl") == {("cifar10", "a2o/white_square/1/0.1"): pytest.approx(10.0)}
