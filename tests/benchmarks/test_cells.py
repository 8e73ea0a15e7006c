from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.cells import Cell, check_triggers, load_parquet, load_triggers
from vbdguard.attacks.triggers import Trigger
from vbdguard.errors import ConfigError

N, K = 200, 5


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 200, (N, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    return np.arange(N) % K


@pytest.fixture
def grid() -> Trigger:
    """A 3 x 3 grid with all nine pixels in its mask, as in a folder of triggers."""
    pattern, mask = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.bool_)
    pattern[12:15, 10:13] = np.arange(201, 210, dtype=np.uint8).reshape(3, 3, 1)
    mask[12:15, 10:13] = True
    return Trigger("my_grid", pattern, mask)


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(-1)


@pytest.mark.parametrize(
    ("text", "cell", "name"),
    [
        ("clean", Cell("clean", ratio=0.0), "clean"),
        ("a2o/white_square", Cell("a2o", "white_square", 1.0, 0.1), "a2o/white_square/1/0.1"),
        ("a2a/white_grid/0.5", Cell("a2a", "white_grid", 0.5, 0.1), "a2a/white_grid/0.5/0.1"),
        ("a2o/big/.2/0.05", Cell("a2o", "big", 0.2, 0.05), "a2o/big/0.2/0.05"),
    ],
)
def test_a_cell_is_named_as_it_is_parsed(text: str, cell: Cell, name: str) -> None:
    assert Cell.parse(text) == cell
    assert cell.name == name
    assert Cell.parse(cell.name) == cell


@pytest.mark.parametrize("text", ["", "clean/x", "a2o", "b2b/white_square", "a2o/t/1/0.1/9", "a2o/t/much"])
def test_what_names_no_cell_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Cell.parse(text)


def test_a_clean_cell_changes_nothing(images: np.ndarray, labels: np.ndarray) -> None:
    data = Cell.parse("clean").poison(images, labels, {}, 3)
    assert not data.is_poisoned.any()
    np.testing.assert_array_equal(data.images, images)
    np.testing.assert_array_equal(data.labels, labels)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_seed_is_the_target_of_an_all_to_one_cell(
    images: np.ndarray, labels: np.ndarray, grid: Trigger, seed: int
) -> None:
    data = Cell.parse("a2o/my_grid").poison(images, labels, {"my_grid": grid}, seed)
    assert data.is_poisoned.sum() == N // 10
    assert set(data.labels[data.is_poisoned].tolist()) == {seed}
    touched = changed(images, data.images)
    np.testing.assert_array_equal(touched.any((1, 2)), data.is_poisoned)
    # all nine pixels, where the file has them
    np.testing.assert_array_equal(touched[data.is_poisoned].all(0), grid.mask)


def test_grids_set_the_five_pixels_of_an_x_in_all_to_all_cells(
    images: np.ndarray, labels: np.ndarray, grid: Trigger
) -> None:
    data = Cell.parse("a2a/my_grid/1/0.5").poison(images, labels, {"my_grid": grid}, 0)
    expected = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], np.bool_)
    for k in range(K):
        members = data.is_poisoned & (labels == k)
        assert set(data.labels[members].tolist()) == {(k + 1) % K}
        touched = changed(images[members], data.images[members]).all(0)
        left = 13 - 3 * k
        np.testing.assert_array_equal(touched[13:16, left : left + 3], expected)
        assert touched.sum() == 5


def test_squares_keep_all_their_pixels_in_all_to_all_cells(images: np.ndarray, labels: np.ndarray) -> None:
    data = Cell.parse("a2a/white_square").poison(images, labels, {}, 0)
    members = data.is_poisoned & (labels == 0)
    assert changed(images[members], data.images[members]).all(0)[13:, 13:].all()


def test_a_trigger_that_nobody_knows_is_an_error(images: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="pentagram"):
        Cell.parse("a2o/pentagram").poison(images, labels, {}, 0)


def test_triggers_of_a_folder_bear_short_names(tmp_path: Path) -> None:
    for stem in ("trigger_white_grid", "small_cat"):
        mask = np.zeros((16, 16), np.uint8)
        mask[2:5, 3:6] = 255
        Image.fromarray(np.full((16, 16, 3), 77, np.uint8)).save(tmp_path / f"{stem}.png")
        Image.fromarray(mask).save(tmp_path / f"{stem}_mask.png")
    triggers = load_triggers(tmp_path)
    assert {name: trigger.name for name, trigger in triggers.items()} == {
        "white_grid": "white_grid",
        "small_cat": "small_cat",
    }
    assert triggers["small_cat"].mask.sum() == 9
    assert load_triggers(None) == {}
    check_triggers(map(Cell.parse, ("a2o/small_cat", "a2o/waves", "a2o/warp", "clean")), triggers)
    with pytest.raises(ValueError, match="no trigger pentagram; at hand: color_grid, .*small_cat"):
        check_triggers([Cell.parse("a2o/waves+also=pentagram")], triggers)


def test_parquet_shards_are_read_in_their_order(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    for number in (1, 0):
        cells = []
        for level in (10, 20, 30):
            file = io.BytesIO()
            Image.fromarray(np.full((8, 8), level + number, np.uint8)).save(file, "PNG")
            cells.append({"bytes": file.getvalue(), "path": None})
        table = pa.table({"image": cells, "label": [number, 2, 3]})
        pq.write_table(table, tmp_path / f"train-{number:05d}-of-00002.parquet")
    images, labels = load_parquet(tmp_path)
    assert (images.shape, images.dtype, labels.dtype) == ((6, 8, 8, 3), np.uint8, np.int64)
    assert images[:, 0, 0, 2].tolist() == [10, 20, 30, 11, 21, 31]
    assert labels.tolist() == [0, 2, 3, 1, 2, 3]
    few, few_labels = load_parquet(tmp_path, 4)
    assert len(few) == len(few_labels) == 4


def test_published_triggers_are_patches_and_pictures(test_data: Path) -> None:
    triggers = load_triggers(test_data / "triggers" / "cifar10-32px")
    assert set(triggers) == {
        *("white_square", "green_square", "white_grid", "color_grid"),
        *("small_kitty", "big_kitty"),
    }
    assert {name: int(trigger.mask.sum()) for name, trigger in triggers.items() if "grid" in name} == {
        "white_grid": 9,
        "color_grid": 9,
    }
