from __future__ import annotations

from importlib.metadata import distribution

import numpy as np
import pytest
from numpy.typing import NDArray

from vbdguard.cli.demo_data import PHOTOGRAPHS, DemoSet


@pytest.fixture(scope="module")
def drawn() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    samples = list(DemoSet(per_class=60).samples())
    return np.stack([sample.image for sample in samples]), np.array([sample.label for sample in samples])  # type: ignore[arg-type]


def test_the_wheel_itself_carries_every_photograph() -> None:
    carried = {str(path) for path in distribution("scikit-image").files or ()}
    assert {f"skimage/data/{name}" for name in PHOTOGRAPHS.values()} <= carried


def test_the_full_set_is_of_the_promised_size() -> None:
    assert len(DemoSet()) >= 4000
    assert len(DemoSet().class_names) >= 8


def test_classes_are_of_one_size_and_shuffled(drawn: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> None:
    images, labels = drawn
    assert images.shape == (600, 32, 32, 3)
    assert images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [60] * 10
    assert len(set(labels[:30].tolist())) > 5


def test_no_crop_is_flat_and_none_comes_twice(drawn: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> None:
    images, _ = drawn
    assert images.reshape(len(images), -1).std(axis=1).min() > 4
    assert len({image.tobytes() for image in images}) == len(images)


def test_the_same_seed_draws_the_same_images() -> None:
    first, again, other = ([sample.image for sample in DemoSet(3, seed).samples()] for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_mean_colour_tells_little_about_the_class(drawn: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> None:
    images, labels = drawn
    colours = images.reshape(len(images), -1, 3).mean(axis=1)
    half = len(images) // 2
    centres = np.stack([colours[:half][labels[:half] == label].mean(axis=0) for label in range(10)])
    distances = ((colours[half:, None] - centres[None]) ** 2).sum(axis=2)
    # Chance is 0.1; 0.15 measured on the full set.
    assert (distances.argmin(axis=1) == labels[half:]).mean() < 0.3


def test_a_missing_photograph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from vbdguard.errors import SourceError

    monkeypatch.setitem(PHOTOGRAPHS, "cat", "no_such_cat.png")
    with pytest.raises(SourceError, match=r"no_such_cat\.png: expected a photograph"):
        next(DemoSet(1).samples())
