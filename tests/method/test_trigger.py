"""Stage 3 against loops, scipy and the attack itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pasting import candidate, random_images
from scipy.ndimage import convolve
from skimage.filters import threshold_otsu

from vbdguard.attacks.poison import blend
from vbdguard.attacks.triggers import Trigger, builtin_patch, frame_trigger, place
from vbdguard.method.trigger import (
    TriggerCandidate,
    candidate_mask,
    extract_trigger,
    variance_image,
)

CORNER = np.s_[13:16, 13:16]


def test_the_variance_image_is_equation_3_by_loops() -> None:
    x = np.random.default_rng(1).normal(5, 40, (7, 3, 4, 5))
    expected = np.zeros((4, 5))
    for c in range(3):
        variance = np.zeros((4, 5))
        for i in range(4):
            for j in range(5):
                values = [sample[c, i, j] for sample in x]
                mean = sum(values) / len(values)
                variance[i, j] = sum((value - mean) ** 2 for value in values) / len(values)
        expected += (variance - variance.min()) / (variance.max() - variance.min()) / 3
    np.testing.assert_allclose(variance_image(torch.from_numpy(x)), expected, rtol=1e-9)
    assert 0 <= expected.min() <= expected.max() <= 1


def test_a_channel_that_never_changes_has_no_variance() -> None:
    x = torch.rand((5, 2, 4, 4), generator=torch.Generator().manual_seed(0))
    x[:, 1] = 7.0
    both, one = variance_image(x), variance_image(x[:, :1])
    torch.testing.assert_close(both, one / 2)


def test_one_sample_has_no_variance() -> None:
    with pytest.raises(ValueError, match="at least 2 samples for a variance, got 1"):
        variance_image(torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("seed", range(6))
def test_the_mask_is_algorithm_2_in_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gradient = rng.normal(size=(3, 12, 10)) * np.where(rng.random((12, 10)) < 0.15, 8, 1)
    variance = rng.random((12, 10))
    strength = np.sqrt((gradient**2).sum(0))
    strength = (strength - strength.min()) / (strength.max() - strength.min())
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    blurred = convolve(strength, kernel, mode="mirror")  # scipy's word for a reflection that repeats no border pixel
    weighed = (blurred > threshold_otsu(blurred)) * (1 - variance)
    expected = weighed > threshold_otsu(weighed)
    mask = candidate_mask(torch.from_numpy(gradient), torch.from_numpy(variance))
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(mask, expected)


def test_a_single_strong_pixel_brings_its_neighbours_in() -> None:
    gradient = torch.zeros(3, 9, 9)
    gradient[:, 4, 4] = 1.0
    mask = candidate_mask(gradient, torch.zeros(9, 9))
    # the binomial kernel leaves 4/16 in the middle, 2/16 beside it and 1/16 in the corners
    assert mask[4, 4]
    assert not mask[2].any()
    assert mask[4, 3] == mask[4, 5] == mask[3, 4] == mask[5, 4]


def test_a_flat_gradient_gives_no_trigger() -> None:
    images = torch.from_numpy(random_images(5))
    assert extract_trigger(images, torch.zeros(3, 16, 16)) is None
    assert extract_trigger(images, torch.ones(3, 16, 16)) is None


def test_a_planted_pattern_comes_back(tmp_path: object) -> None:
    trigger = frame_trigger("color_grid", (16, 16))
    images = blend(random_images(20), trigger, 1.0)
    gradient = 0.05 * np.random.default_rng(2).random((3, 16, 16))
    gradient[(slice(None), *CORNER)] = 1.0
    gradient[:, 2:4, 2:4] = 0.9  # as strong, but the pixels there change from sample to sample
    found = extract_trigger(torch.from_numpy(images), torch.from_numpy(gradient))
    assert found is not None
    np.testing.assert_array_equal(found.mask, trigger.mask)
    assert found.bbox == (13, 13, 3, 3)
    np.testing.assert_allclose(found.pattern.permute(1, 2, 0), trigger.pattern * trigger.mask[..., None], atol=1e-3)


@pytest.mark.parametrize("place_of", [(0, 0, 1, 1), (3, 5, 2, 4), (15, 15, 1, 1)])
def test_the_box_is_top_left_height_width(place_of: tuple[int, int, int, int]) -> None:
    top, left, height, width = place_of
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[top, left] = mask[top + height - 1, left + width - 1] = True
    assert TriggerCandidate(mask, torch.zeros(3, 16, 16)).bbox == place_of


@pytest.mark.parametrize("blend_factor", [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_pasting_is_the_attack_for_every_pair_of_grey_levels(blend_factor: float) -> None:
    """256 images of one grey level each, and a pattern that holds every grey level once."""
    levels = np.arange(256, dtype=np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (256, 16, 16, 3)).copy()
    pattern = np.broadcast_to(levels.reshape(16, 16)[..., None], (16, 16, 3)).copy()
    trigger = Trigger("levels", pattern, np.ones((16, 16), dtype=np.bool_))
    expected = blend(images, trigger, blend_factor)
    pasted = candidate(trigger).paste(torch.from_numpy(images), blend_factor)
    np.testing.assert_array_equal(pasted, expected)


def test_pasting_changes_only_what_the_mask_sets_and_not_the_given_images() -> None:
    trigger = place(builtin_patch("white_grid", cross_only=True), (16, 16), (2, 3))
    images = random_images(4)
    given = torch.from_numpy(images.copy())
    pasted = candidate(trigger).paste(given, 0.5).numpy()
    np.testing.assert_array_equal(given, images)
    np.testing.assert_array_equal(pasted[:, ~trigger.mask], images[:, ~trigger.mask])
    np.testing.assert_array_equal(pasted, blend(images, trigger, 0.5))


def test_each_sample_may_have_a_blend_factor_of_its_own() -> None:
    trigger = frame_trigger("color_grid", (16, 16))
    images = torch.from_numpy(random_images(3))
    factors = torch.tensor([0.2, 1.0, 0.5])
    together = candidate(trigger).paste(images, factors)
    for image, pasted, factor in zip(images, together, factors.tolist(), strict=True):
        assert torch.equal(candidate(trigger).paste(image[None], factor)[0], pasted)


@given(st.integers(-6, 6), st.integers(-6, 6))
def test_a_moved_trigger_is_cut_at_the_edges(down: int, right: int) -> None:
    rng = np.random.default_rng(0)
    mask, pattern = rng.random((5, 6)) < 0.5, rng.random((3, 5, 6)).astype(np.float32)
    moved = TriggerCandidate(torch.from_numpy(mask), torch.from_numpy(pattern)).moved(down, right)
    for row in range(5):
        for column in range(6):
            came_from = row - down, column - right
            is_inside = 0 <= came_from[0] < 5 and 0 <= came_from[1] < 6
            assert bool(moved.mask[row, column]) == (is_inside and bool(mask[came_from]))
            expected = pattern[:, came_from[0], came_from[1]] if is_inside else np.zeros(3)
            np.testing.assert_array_equal(moved.pattern[:, row, column].numpy(), expected)
