"""The rules of the shorter methods, each against a slow reference or a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import median_abs_deviation

from benchmarks.rivals.abl import flooded, lowest
from benchmarks.rivals.outliers import deviations
from benchmarks.rivals.spectral import spectral_scores
from benchmarks.rivals.strip import entropy, mean_entropies, superimposed

from .conftest import Poisoning


def test_spectral_scores_are_those_of_the_singular_value_decomposition() -> None:
    features = np.random.default_rng(0).normal(size=(40, 12)) @ np.diag(np.arange(1, 13.0)) + 3
    centred = features - features.mean(0)
    direction = np.linalg.svd(centred)[2][0]
    assert spectral_scores(features) == pytest.approx((centred @ direction) ** 2, rel=1e-9)


def test_a_class_without_samples_has_no_spectral_scores() -> None:
    assert spectral_scores(np.zeros((0, 5))).shape == (0,)


def test_deviations_are_scaled_by_scipys_median_absolute_deviation() -> None:
    values = np.random.default_rng(0).normal(size=(3, 11))
    scale = median_abs_deviation(values, axis=1, scale="normal")[:, None]
    assert deviations(values) == pytest.approx((values - np.median(values, 1, keepdims=True)) / scale, rel=1e-4)


def test_values_that_are_all_alike_do_not_deviate() -> None:
    assert deviations(np.full(4, 3.0)).tolist() == [0, 0, 0, 0]


def test_a_flooded_loss_is_climbed_below_its_level() -> None:
    for start, slope in ((2.0, 1.0), (0.2, -1.0)):
        loss = torch.tensor(start, requires_grad=True)
        value = flooded(loss, 0.5)
        value.backward()
        assert value.detach().item() == pytest.approx(abs(start - 0.5) + 0.5)
        assert loss.grad is not None
        assert float(loss.grad) == slope


def test_the_lowest_losses_are_flagged_to_the_told_number() -> None:
    losses = np.random.default_rng(0).random(101)
    is_flagged = lowest(losses, 0.1)
    assert is_flagged.sum() == 10
    assert losses[is_flagged].max() < losses[~is_flagged].min()


def test_superimposed_images_saturate() -> None:
    images = torch.tensor([200, 100, 0], dtype=torch.uint8).reshape(1, 1, 1, 3)
    assert superimposed(images, torch.tensor([[[100, 100, 100]]], dtype=torch.uint8)).flatten().tolist() == [
        255,
        200,
        100,
    ]


def test_entropy_is_0_where_certain_and_ln_k_where_not() -> None:
    assert entropy(torch.tensor([[0.0, 0.0, 0.0], [100.0, 0.0, 0.0]])).tolist() == pytest.approx([math.log(3), 0])


def test_the_mean_entropy_is_that_of_one_overlay_at_a_time(poisoning: Poisoning) -> None:
    victim = poisoning.victim
    pixels, overlays = victim.pixels.subset(np.arange(5)), victim.pixels.images[10:13]
    expected = []
    for image in pixels.images.int():
        sums = torch.stack([torch.clamp(image + overlay, max=255).to(torch.uint8) for overlay in overlays])
        with torch.no_grad():
            shares = victim.network(victim.normalization.apply(sums)).softmax(1)
        expected.append(float(-(shares * shares.log()).sum(1).mean()))
    assert mean_entropies(victim, pixels, overlays) == pytest.approx(expected, abs=1e-4)
