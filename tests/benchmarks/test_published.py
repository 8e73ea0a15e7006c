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
cifar10,trigger_white_square,0_all,1.0,0,agpd_100,0.2
cifar10,trigger_white_square,0_all,1.0,0,agpd_2000,0.9
tiny,small_hello_picture,0_all,0.5,0,vbd,0.75
tiny,small_hello_picture,0_all,0.5,0,scan_100,0.9
tiny,small_hello_picture,0_all,0.5,0,scan_2000,0.3
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    path.write_text(ROWS)
    return path


def test_runs_stand_by_seed_and_one_that_found_nothing_counts_nought(path: Path) -> None:
    published = load_published(path)
    assert published["cifar10", "a2o/white_square/1/0.1", "VBD"] == {0: 50.0, 1: 100.0}
    assert published["cifar10", "a2a/white_square/0.1/0.1", "VBD"] == {0: 25.0, 1: 0.0}
    assert published["cifar10", "a2o/white_square/1/0.1", "ABL"] == {0: 10.0}


def test_methods_with_clean_samples_are_those_with_ten_per_class(path: Path) -> None:
    published = load_published(path)
    assert published["cifar10", "a2o/white_square/1/0.1", "AGPD"] == {0: pytest.approx(20.0)}
    assert published["tiny-imagenet-100", "a2o/small_picture/0.5/0.1", "SCAn"] == {0: pytest.approx(30.0)}


def test_another_file_is_refused(path: Path) -> None:
    path.write_text("Dataset,F1\ncifar10,1\n")
    with pytest.raises(ValueError, match="columns Blending, Defense"):
        load_published(path)
