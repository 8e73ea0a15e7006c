from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import data as module
from benchmarks.cells import Cell
from benchmarks.data import Data, load_data, make_trial

N, K = 200, 4
NEEDS = frozenset({"clean", "ratio"})


@pytest.fixture
def data() -> Data:
    rng = np.random.default_rng(0)
    return Data("noise", rng.integers(0, 256, (N, 16, 16, 3), dtype=np.uint8), np.arange(N) % K)


@pytest.fixture
def with_test_split(data: Data) -> Data:
    rng = np.random.default_rng(1)
    test = rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    return Data("noise", data.images, data.labels, test, np.arange(60) % K)


def test_clean_samples_come_from_the_test_split_ten_of_each_class(with_test_split: Data) -> None:
    trial = make_trial(Cell.parse("a2o/white_square"), with_test_split, {}, 0, NEEDS)
    task = trial.task
    assert trial.clean_from == "test"
    assert task.clean_images is not None
    assert task.clean_labels is not None
    assert np.bincount(task.clean_labels).tolist() == [10] * K
    assert len(task.labels) == N
    assert with_test_split.test_images is not None
    known = {image.tobytes() for image in with_test_split.test_images}
    assert {image.tobytes() for image in task.clean_images} <= known


def test_without_a_test_split_they_are_held_out_of_the_training_split(data: Data) -> None:
    trial = make_trial(Cell.parse("clean"), data, {}, 0, NEEDS)
    assert trial.clean_from == "train, held out"
    assert len(trial.task.labels) == len(trial.is_poisoned) == N - 10 * K
    assert trial.task.clean_images is not None
    held_out = {image.tobytes() for image in trial.task.clean_images}
    assert not held_out & {image.tobytes() for image in trial.task.images}
    assert len(make_trial(Cell.parse("clean"), data, {}, 0, frozenset()).task.labels) == N


def test_clean_samples_share_the_variation_of_the_data(with_test_split: Data) -> None:
    task = make_trial(Cell.parse("a2o/white_square+grey+classes2"), with_test_split, {}, 0, NEEDS).task
    assert task.n_classes == 2
    assert task.clean_images is not None
    assert task.clean_labels is not None
    assert set(task.clean_labels.tolist()) == {0, 1}
    assert (task.clean_images == task.clean_images[..., :1]).all()


def test_the_share_of_poison_is_the_true_one(data: Data) -> None:
    assert make_trial(Cell.parse("a2o/white_square/1/0.25"), data, {}, 0, NEEDS).task.ratio == pytest.approx(0.25)


def test_of_clean_data_a_method_is_told_what_its_user_would_suppose(data: Data) -> None:
    assert make_trial(Cell.parse("clean"), data, {}, 0, NEEDS).task.ratio == 0.1


def test_too_few_clean_samples_are_an_error() -> None:
    few = Data("few", np.zeros((12, 16, 16, 3), np.uint8), np.arange(12) % 2)
    with pytest.raises(ValueError, match="10 clean samples of class 0, there are 6"):
        make_trial(Cell.parse("clean"), few, {}, 0, NEEDS)


def test_the_demo_s_crops_need_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DEMO_PER_CLASS", 12)
    demo = load_data("demo", 50)
    assert (demo.name, demo.images.shape, len(demo.labels)) == ("demo", (50, 32, 32, 3), 50)
    assert demo.test_labels is not None
    assert np.bincount(demo.test_labels).tolist() == [20] * 10


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train-"):
        load_data(str(tmp_path), None)


def test_the_hundred_classes_of_tiny_imagenet_are_read_without_a_test_split(test_data: Path) -> None:
    tiny = load_data(str(test_data / "data" / "tiny-imagenet-100"), 3000)
    assert (tiny.name, tiny.images.shape[1:], tiny.test_images) == ("tiny-imagenet-100", (64, 64, 3), None)
    assert len(np.unique(tiny.labels)) == 100
