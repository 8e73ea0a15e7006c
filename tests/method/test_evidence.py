"""Triggers looked for in the single samples of each class."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor

from vbdguard.method.evidence import evidence_maps, mean_log_ratios, over_others
from vbdguard.method.samples import Samples

SIDE, CLASSES, PER_CLASS = 24, 8, 120
SQUARE = np.full((3, 3, 3), 30.0)


def photographs(seed: int = 0, size: tuple[int, int] = (SIDE, SIDE), channels: int = 3) -> Tensor:
    """Return smooth pictures, no two alike, uint8 (N, H, W, C)."""
    noise = np.random.default_rng(seed).normal(size=(CLASSES * PER_CLASS, *size, channels))
    smooth = 128 + 600 * gaussian_filter(noise, (0, 4, 4, 0)) + 2 * noise
    return torch.from_numpy(smooth.clip(0, 255).astype(np.uint8))


def of(images: Tensor) -> Samples:
    return Samples(images, torch.arange(len(images)) % CLASSES, CLASSES)


def with_square(images: Tensor, label: int, top: int, left: int, *, every: int = 10) -> Tensor:
    """Return the images with a faint square on one in `every` of a class."""
    result = images.clone()
    carriers = torch.arange(label, len(images), CLASSES * every)
    patch = result[carriers, top : top + 3, left : left + 3].int() + int(SQUARE[0, 0, 0])
    result[carriers, top : top + 3, left : left + 3] = patch.clamp_max(255).to(torch.uint8)
    return result


@settings(max_examples=8, deadline=None)
@given(st.integers(0, CLASSES - 1), st.integers(0, SIDE - 3), st.integers(0, SIDE - 3))
def test_twelve_carriers_of_a_class_stand_out_where_they_carry_it(label: int, top: int, left: int) -> None:
    samples = of(with_square(photographs(), label, top, left))
    (found,) = evidence_maps(samples, [SQUARE])
    assert found.shape == (CLASSES, SIDE, SIDE)
    assert divmod(int(found.argmax()), SIDE * SIDE)[0] == label
    row, column = divmod(int(found[label].argmax()), SIDE)
    assert max(abs(row - top - 1), abs(column - left - 1)) <= 1
    assert float(found[label].max()) > 1.5 * float(found[torch.arange(CLASSES) != label].max())


def test_nothing_stands_out_of_clean_classes() -> None:
    (found,) = evidence_maps(of(photographs()), [SQUARE])
    assert 0.5 < float(found.square().mean().sqrt()) < 1.5
    assert float((found > 4).double().mean()) < 0.01


def test_what_all_classes_show_at_a_place_speaks_against_none() -> None:
    images = photographs()
    for label in range(CLASSES):
        images = with_square(images, label, 10, 10)
    (found,) = evidence_maps(of(images), [SQUARE])
    (alone,) = evidence_maps(of(with_square(photographs(), 3, 10, 10)), [SQUARE])
    assert float(found[:, 11, 11].abs().max()) < 0.5 * float(alone[3, 11, 11])


def test_each_trigger_has_its_own_maps() -> None:
    images = with_square(photographs(), 2, 5, 14)
    both = evidence_maps(of(images), [-SQUARE, SQUARE])
    assert both.shape == (2, CLASSES, SIDE, SIDE)
    torch.testing.assert_close(both[1], evidence_maps(of(images), [SQUARE])[0])
    assert float(both[1, 2, 6, 15]) > 4 > float(both[0, 2, 6, 15])
    assert evidence_maps(of(images), []).shape == (0, CLASSES, SIDE, SIDE)


def test_a_class_without_samples_says_nothing_and_two_classes_are_too_few_to_compare() -> None:
    images = photographs()
    labels = torch.arange(len(images)) % (CLASSES - 1)
    found = evidence_maps(Samples(images, labels, CLASSES), [SQUARE])
    assert bool((found[0, CLASSES - 1] == 0).all())
    assert bool((found[0, : CLASSES - 1] != 0).any())
    assert bool((evidence_maps(Samples(images, labels % 2, 2), [SQUARE]) == 0).all())


def test_grey_images_smaller_than_the_window_and_wider_triggers_are_taken() -> None:
    images = photographs(size=(7, 12), channels=1)
    found = evidence_maps(of(images), [np.full((3, 20, 1), 30.0)])
    assert found.shape == (1, CLASSES, 7, 12)
    assert bool(found.isfinite().all())


def test_the_same_grey_everywhere_is_no_evidence() -> None:
    images = torch.full((CLASSES * 20, SIDE, SIDE, 3), 128, dtype=torch.uint8)
    found = evidence_maps(of(images), [SQUARE])
    assert bool(found.isfinite().all())
    assert float(found.abs().max()) == 0


def test_a_class_is_compared_with_the_mean_of_the_others() -> None:
    maps = torch.arange(4, dtype=torch.float64).view(4, 1, 1).expand(4, 2, 3)
    assert over_others(maps)[:, 0, 0].tolist() == [0 - 2, 1 - 5 / 3, 2 - 4 / 3, 3 - 1]


def test_the_mean_is_that_of_a_class_s_first_samples_however_they_are_cut_up() -> None:
    images = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(20, 400, 400, 1)
    samples = Samples(images, torch.arange(20) % 2, 3)

    def brightness(chunk: Tensor) -> Tensor:
        return chunk.float().mean((1, 2, 3))

    assert mean_log_ratios(samples, [1, 0], brightness, 1000).tolist() == [10, 9]
    assert mean_log_ratios(samples, [1], brightness, 5).tolist() == [(1 + 5 + 9 + 13 + 17) / 5]
