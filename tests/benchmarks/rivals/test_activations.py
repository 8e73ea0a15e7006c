from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from benchmarks.rivals.activations import (
    convolutions,
    least_log_densities,
    logit_gradients,
    logits,
    pooled_features,
    summed_features,
)
from benchmarks.rivals.victim import Victim

from .conftest import Poisoning

FEW = np.arange(0, 40, 5)


@pytest.fixture(scope="module")
def victim(poisoning: Poisoning) -> Victim:
    return poisoning.victim


def test_pooled_features_are_what_the_head_sees(victim: Victim) -> None:
    pixels = victim.pixels.subset(FEW)
    seen = victim.network.head(torch.from_numpy(pooled_features(victim, pixels)))
    assert torch.allclose(seen, logits(victim, pixels), atol=1e-4)


def test_summed_features_are_those_of_the_last_block(victim: Victim) -> None:
    pixels = victim.pixels.subset(FEW)
    with torch.no_grad():
        maps = victim.network.blocks(victim.network.stem(pixels.normalization.apply(pixels.images)))
    assert summed_features(victim, pixels) == pytest.approx(maps.flatten(2).sum(2).numpy(), rel=1e-4, abs=1e-4)


def test_features_of_more_than_one_batch_keep_their_order(victim: Victim) -> None:
    assert len(victim.pixels) > 500
    together = pooled_features(victim, victim.pixels)[550:560]
    assert together == pytest.approx(pooled_features(victim, victim.pixels.subset(np.arange(550, 560))), abs=1e-5)


def test_gradients_of_a_batch_are_each_samples_own(victim: Victim) -> None:
    labels = np.arange(len(FEW)) % 6
    together = logit_gradients(victim, victim.pixels.subset(FEW), labels)
    assert len(together) == len(convolutions(victim.network)) == 16
    for row, (index, label) in enumerate(zip(FEW, labels, strict=True)):
        alone = logit_gradients(victim, victim.pixels.subset(np.array([index])), np.array([label]))
        for layer, own in zip(together, alone, strict=True):
            assert torch.allclose(layer[row], own[0], atol=1e-5)


def test_the_last_gradient_is_that_of_the_closed_form(victim: Victim) -> None:
    # Behind the last convolution lie an addition, a normalisation, ReLU, the mean over places, and the head.
    pixels, labels = victim.pixels.subset(FEW), np.arange(len(FEW)) % 6
    norm_, head = victim.network.norm, victim.network.head
    with torch.no_grad():
        maps = norm_(victim.network.blocks(victim.network.stem(pixels.normalization.apply(pixels.images))))
        scale = norm_.weight / (norm_.running_var + norm_.eps).sqrt()
        places = maps.shape[2] * maps.shape[3]
        expected = head.weight[torch.from_numpy(labels)] * scale * (maps > 0).float().mean((2, 3)) / places
    assert torch.allclose(logit_gradients(victim, pixels, labels)[-1], expected, atol=1e-5)


def test_the_least_density_is_scipys(victim: Victim) -> None:
    pixels = victim.pixels.subset(FEW)
    first = next(module for module in victim.network.modules() if isinstance(module, nn.BatchNorm2d))
    assert first.running_mean is not None
    assert first.running_var is not None
    with torch.no_grad():
        maps = victim.network.stem(pixels.normalization.apply(pixels.images)).double()
    mean, deviation = first.running_mean.double(), (first.running_var.double() + first.eps).sqrt()
    densities = norm.logpdf(maps, mean[:, None, None], deviation[:, None, None])
    found = least_log_densities(victim, pixels)
    assert found.shape == (len(FEW), 17)
    assert found[:, 0] == pytest.approx(densities.min((1, 2, 3)), rel=1e-3)
