from __future__ import annotations

import numpy as np
import pytest

from benchmarks.beyond import nearby
from benchmarks.cells import Cell
from vbdguard.attacks.triggers import frame_trigger

N, K = 400, 4


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(-1)


def test_a_jittered_trigger_lies_at_most_a_pixel_off(images: np.ndarray, labels: np.ndarray) -> None:
    data = Cell.parse("a2o/white_square/1/0.5+jitter").poison(images, labels, {}, 1)
    touched = changed(images, data.images)
    np.testing.assert_array_equal(touched.any((1, 2)), data.is_poisoned)
    shapes = {touched[i].tobytes() for i in np.flatnonzero(data.is_poisoned)}
    assert len(shapes) == 9
    assert touched.any(0).sum() == 16
    assert touched[data.is_poisoned][:, 14:15, 14:15].all()


def test_what_leaves_the_image_is_cut_off() -> None:
    variants = nearby(frame_trigger("white_square", (16, 16)))
    assert sorted(int(variant.mask.sum()) for variant in variants) == [4, 6, 6, 6, 6, 9, 9, 9, 9]
    assert all((variant.pattern[variant.mask] == 255).all() for variant in variants)


def test_several_places_each_take_their_share(images: np.ndarray, labels: np.ndarray) -> None:
    data = Cell.parse("a2o/white_square/1/0.5+places3").poison(images, labels, {}, 2)
    touched = changed(images, data.images)[data.is_poisoned]
    assert (touched.sum((1, 2)) == 9).all()
    shapes, counts = np.unique(touched.reshape(len(touched), -1), axis=0, return_counts=True)
    assert len(shapes) == 3
    assert counts.min() > 0.2 * len(touched)


def test_two_triggers_of_one_class_halve_the_poison(images: np.ndarray, labels: np.ndarray) -> None:
    data = Cell.parse("a2o/white_square/1/0.2+also=green_square").poison(images, labels, {}, 3)
    assert set(data.labels[data.is_poisoned].tolist()) == {3}
    corners = data.images[data.is_poisoned][:, 15, 15]
    white, green = ((corners == colour).all(1).sum() for colour in ((255, 255, 255), (0, 255, 0)))
    assert white == 0.1 * N
    assert 0.05 * N < green <= 0.1 * N
    assert white + green == data.is_poisoned.sum()


def test_two_attackers_want_two_classes(images: np.ndarray, labels: np.ndarray) -> None:
    data = Cell.parse("a2o/white_square/1/0.2+other=green_square").poison(images, labels, {}, 3)
    corners = data.images[:, 15, 15]
    for label, colour in ((3, (255, 255, 255)), (0, (0, 255, 0))):
        members = data.is_poisoned & (data.labels == label)
        assert members.any()
        assert (corners[members] == colour).all()


def test_a_clean_label_attack_leaves_all_labels_right(images: np.ndarray, labels: np.ndarray) -> None:
    data = Cell.parse("cl/white_square/1/0.1").poison(images, labels, {}, 2)
    np.testing.assert_array_equal(data.labels, labels)
    assert data.is_poisoned.sum() == 0.1 * N
    assert set(labels[data.is_poisoned].tolist()) == {2}
    np.testing.assert_array_equal(changed(images, data.images).any((1, 2)), data.is_poisoned)
    with pytest.raises(ValueError, match="1 to 100 samples"):
        Cell.parse("cl/white_square/1/0.3").poison(images, labels, {}, 2)


def test_own_noise_has_no_mean(images: np.ndarray, labels: np.ndarray) -> None:
    data = Cell.parse("a2o/own_noise/1/0.5").poison(np.full_like(images, 128), labels, {}, 0)
    poisoned = data.images[data.is_poisoned].astype(float) - 128
    assert set(np.unique(poisoned)) == {-16.0, 16.0}
    assert np.abs(poisoned.mean(0)).max() < 16 * 5 / np.sqrt(len(poisoned))


def test_warping_bends_all_alike_and_adds_no_pattern(labels: np.ndarray) -> None:
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None, None] * 10, (N, 16, 16, 3))
    data = Cell.parse("a2o/warp/1/0.5").poison(np.ascontiguousarray(ramp), labels, {}, 0)
    moved = (data.images[data.is_poisoned].astype(float) - ramp[0]) / 10
    assert (moved == moved[0]).all()
    assert 0.3 < np.abs(moved).mean() < 2
    flat = Cell.parse("a2o/warp/1/0.5").poison(np.full((N, 16, 16, 3), 77, np.uint8), labels, {}, 0)
    assert (flat.images == 77).all()
