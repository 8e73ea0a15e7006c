"""Patterns that the mean images of many classes repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from vbdguard.method.repeated_pattern import repeated_patterns

SIDE, CLASSES, WINDOW, NATURAL = 24, 40, 5, 0.9
ELL = np.array([[1.0, 0, 0], [1, 0, 0], [1, 1, 1]])[..., None] * np.array([2.2, 1.5, -1.8])


def contrasts(seed: int, n_classes: int = CLASSES, channels: int = 3) -> Tensor:
    """Return smooth differences between classes, and what chance adds to each pixel of a mean."""
    rng = np.random.default_rng(seed)
    shape = n_classes, SIDE, SIDE, channels
    smooth = gaussian_filter(rng.normal(0, 60, shape), (0, 4, 4, 0))
    return torch.from_numpy(smooth + rng.normal(0, 0.6, shape))


def with_pattern(clean: Tensor, pattern: NDArray[np.float64], seed: int, labels: range) -> Tensor:
    """Return contrasts of which some classes bear a pattern, each at a place of its own."""
    rng, result = np.random.default_rng(seed), clean.clone()
    height, width = pattern.shape[:2]
    for label in labels:
        top, left = (int(rng.integers(2, SIDE - length - 2)) for length in (height, width))
        result[label, top : top + height, left : left + width] += torch.from_numpy(pattern)
    return result


def counts(n_classes: int = CLASSES) -> Tensor:
    return torch.full((n_classes,), 500)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_nothing_is_repeated_in_clean_classes(seed: int) -> None:
    assert repeated_patterns(contrasts(seed), counts(), WINDOW, NATURAL) == []


@pytest.mark.parametrize("seed", range(4))
def test_what_is_faint_in_each_class_is_read_from_all(seed: int) -> None:
    seen = with_pattern(contrasts(seed), ELL, seed, range(CLASSES))
    found = repeated_patterns(seen, counts(), WINDOW, NATURAL)
    assert len(found) == 1
    template = found[0].cropped()
    assert template.shift.shape == ELL.shape
    # A class mean moves by a tenth of what its carriers move, if a tenth of the class carries it.
    assert np.corrcoef(template.shift.ravel(), ELL.ravel())[0, 1] > 0.95
    assert np.linalg.norm(template.shift) == pytest.approx(10 * np.linalg.norm(ELL), rel=0.3)
    assert len(found[0].labels) > CLASSES / 2
    assert found[0].weight == pytest.approx(50 * len(found[0].labels))


def test_classes_that_show_it_are_named() -> None:
    seen = with_pattern(contrasts(5), 2 * ELL, 5, range(0, CLASSES, 2))
    (found,) = repeated_patterns(seen, counts(), WINDOW, NATURAL)
    assert found.labels >= set(range(0, CLASSES, 2)) - {0, 2}
    assert len([label for label in found.labels if label % 2]) <= CLASSES / 8


def test_one_class_with_a_clear_pattern_repeats_nothing() -> None:
    seen = with_pattern(contrasts(1), 20 * ELL, 1, range(3, 4))
    assert repeated_patterns(seen, counts(), WINDOW, NATURAL) == []


def test_two_patterns_are_told_apart() -> None:
    seen = with_pattern(contrasts(2), 2 * ELL, 2, range(CLASSES // 2))
    other = np.full((2, 2, 3), -4.0)
    found = repeated_patterns(with_pattern(seen, other, 3, range(CLASSES // 2, CLASSES)), counts(), WINDOW, NATURAL)
    assert len(found) == 2
    assert not found[0].is_like(found[1])


def test_few_classes_cannot_repeat_and_empty_ones_are_not_asked() -> None:
    few = with_pattern(contrasts(3, 12), 2 * ELL, 3, range(12))
    assert repeated_patterns(few, counts(12), WINDOW, NATURAL) == []
    seen = with_pattern(contrasts(3), 2 * ELL, 3, range(CLASSES))
    seen[7], some = 0, counts()
    some[7] = 0
    (found,) = repeated_patterns(seen, some, WINDOW, NATURAL)
    assert 7 not in found.labels


def test_grey_images_and_those_smaller_than_a_window_are_taken() -> None:
    grey = with_pattern(contrasts(4, channels=1), 3 * ELL[..., :1], 4, range(CLASSES))
    (found,) = repeated_patterns(grey, counts(), WINDOW, NATURAL)
    assert found.shift.shape[2] == 1
    tiny = contrasts(4)[:, :4, :4]
    assert repeated_patterns(tiny, counts(), WINDOW, NATURAL) == []


def test_the_same_in_all_classes_is_no_pattern() -> None:
    assert repeated_patterns(torch.zeros(CLASSES, SIDE, SIDE, 3, dtype=torch.float64), counts(), WINDOW, NATURAL) == []
