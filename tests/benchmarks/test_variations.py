from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from benchmarks.cells import Cell
from benchmarks.variations import Variation, random_place

N, K = 400, 4


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("clean+grey", "clean+grey"),
        ("a2o/white_square/.2/0.01+place+jpeg75+grey", "a2o/white_square/0.2/0.01+jpeg75+place+grey"),
        ("a2a/white_grid+imbalance100+classes2", "a2a/white_grid/1/0.1+classes2+imbalance100"),
        ("a2o/white_grid+grey+also=green_square+places3", "a2o/white_grid/1/0.1+places3+also=green_square+grey"),
        ("clean+bootstrap+mark=stamp+samples90", "clean+samples90+mark=stamp+bootstrap"),
    ],
)
def test_a_varied_cell_is_named_as_it_is_parsed(text: str, name: str) -> None:
    cell = Cell.parse(text)
    assert cell.name == name
    assert Cell.parse(name) == cell


@pytest.mark.parametrize(
    "text",
    [
        *("clean+", "clean+blue", "clean+grey+grey", "clean+jpeg", "clean+jpeg0", "clean+jpeg101"),
        *(
            "clean+classes1",
            "clean+jpeg75+jpeg85",
            "cl/white_grid+place",
            "clean+place",
            "clean+mark=fog",
            "clean+also",
        ),
        *("a2o/white_grid+place+jitter", "a2a/white_grid+jitter", "a2o/white_grid+places1", "cl/waves+also=waves"),
    ],
)
def test_what_names_no_variation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Cell.parse(text)


def test_fewer_classes_are_the_first_ones_and_the_target_stays_among_them(
    images: np.ndarray, labels: np.ndarray
) -> None:
    data = Cell.parse("a2o/white_square+classes2").poison(images, labels, {}, 3)
    assert set(data.original_labels.tolist()) == {0, 1}
    assert len(data.labels) == N // 2
    assert set(data.labels[data.is_poisoned].tolist()) == {1}
    with pytest.raises(ValueError, match="at least 9 classes"):
        Cell.parse("clean+classes9").poison(images, labels, {}, 0)


def test_imbalance_leaves_the_last_class_its_share_of_the_first(images: np.ndarray, labels: np.ndarray) -> None:
    data = Cell.parse("clean+imbalance100").poison(images, labels, {}, 0)
    # 100 ** -(k / 3) of 100 samples each
    assert np.bincount(data.labels).tolist() == [100, 22, 5, 1]
    other = Cell.parse("clean+imbalance100").poison(images, labels, {}, 1)
    assert not np.array_equal(data.images, other.images)


def test_grey_images_have_three_equal_channels_and_still_the_trigger(images: np.ndarray, labels: np.ndarray) -> None:
    data = Cell.parse("a2o/white_square+grey").poison(images, labels, {}, 0)
    assert (data.images == data.images[..., :1]).all()
    assert (data.images[data.is_poisoned][:, 13:, 13:] == 255).all()
    untouched = data.images[~data.is_poisoned][0, ..., 0]
    first = int(np.flatnonzero(~data.is_poisoned)[0])
    luma = images[first] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(untouched, luma, atol=1)


def test_every_image_goes_through_jpeg_with_halved_colour(images: np.ndarray) -> None:
    finished = Variation(jpeg=75).finish(images[:5])
    for before, after in zip(images, finished, strict=False):
        file = io.BytesIO()
        Image.fromarray(before).save(file, "JPEG", quality=75, subsampling=2)
        np.testing.assert_array_equal(after, np.asarray(Image.open(file)))
    assert Variation().finish(images) is images


def test_better_quality_changes_less(images: np.ndarray) -> None:
    smooth = np.repeat(np.repeat(images[:20, ::4, ::4], 4, 1), 4, 2)
    change = [np.abs(Variation(jpeg=q).finish(smooth).astype(int) - smooth).mean() for q in (50, 75, 95)]
    assert change[0] > change[1] > change[2] > 0


def test_the_seed_draws_one_place_for_all_samples(images: np.ndarray, labels: np.ndarray) -> None:
    boxes = set()
    for seed in range(6):
        data = Cell.parse("a2o/white_square+place").poison(images, labels, {}, seed)
        touched = (data.images != images).any(-1)[data.is_poisoned].all(0)
        rows, columns = np.nonzero(touched)
        assert touched.sum() == 9
        assert (np.ptp(rows), np.ptp(columns)) == (2, 2)
        assert (rows[0], columns[0]) == Cell.parse("a2o/white_square+place").place({}, (16, 16), seed)
        boxes.add((int(rows[0]), int(columns[0])))
    assert len(boxes) > 3


def test_a_trigger_that_fills_the_image_has_no_random_place(images: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="smaller than the image"):
        Cell.parse("a2o/waves+place").poison(images, labels, {}, 0)


def test_every_place_can_be_drawn() -> None:
    places = {random_place((5, 4), (3, 3), seed) for seed in range(200)}
    assert places == {(top, left) for top in range(3) for left in range(2)}


def test_drawn_classes_are_numbered_anew(images: np.ndarray, labels: np.ndarray) -> None:
    drawn = set()
    for seed in range(8):
        data = Cell.parse("clean+drawn2").poison(images, labels, {}, seed)
        assert np.bincount(data.labels).tolist() == [N // K, N // K]
        pair = [np.flatnonzero((images == image).all((1, 2, 3)))[0] % K for image in (data.images[0], data.images[1])]
        drawn.add(tuple(sorted(map(int, pair))))
    assert len(drawn) > 2


def test_so_many_samples_are_drawn_without_replacement(images: np.ndarray, labels: np.ndarray) -> None:
    data = Cell.parse("clean+samples90").poison(images, labels, {}, 0)
    assert len(np.unique(data.images, axis=0)) == len(data.images) == 90
    with pytest.raises(ValueError, match="at least 401 samples"):
        Cell.parse("clean+samples401").poison(images, labels, {}, 0)


def test_a_bootstrap_repeats_samples_and_misses_a_third(images: np.ndarray, labels: np.ndarray) -> None:
    data = Cell.parse("clean+bootstrap").poison(images, labels, {}, 0)
    assert len(data.images) == N
    assert 0.55 * N < len(np.unique(data.images, axis=0)) < 0.71 * N


@pytest.mark.parametrize(("mark", "pixels"), [("border", 60), ("stamp", 34)])
def test_a_mark_lies_on_most_images_of_one_class_whose_labels_stay(
    mark: str, pixels: int, images: np.ndarray, labels: np.ndarray
) -> None:
    data = Cell.parse(f"clean+mark={mark}").poison(images, labels, {}, 1)
    np.testing.assert_array_equal(data.labels, labels)
    assert not data.is_poisoned.any()
    changed = (data.images != images).any(-1)
    (bearer,) = set(labels[changed.any((1, 2))].tolist())
    assert changed.any((1, 2)).sum() == 0.8 * (labels == bearer).sum()
    assert changed[changed.any((1, 2))].sum((1, 2)).max() == pixels


def test_a_place_behind_an_all_to_all_cell_is_that_of_all_classes() -> None:
    images, labels = np.zeros((200, 16, 16, 3), dtype=np.uint8), np.arange(200) % 5
    cell = Cell.parse("a2a/white_square/1/0.5+place")
    data = cell.poison(images, labels, {}, 3)
    assert set(data.labels[data.is_poisoned]) == set(range(5))
    painted = data.images[data.is_poisoned].any(-1)
    assert (painted == painted[0]).all()
    assert tuple(np.argwhere(painted[0])[0]) == cell.place({}, (16, 16), 3)
