"""A mixture's judgement of samples that it was not fitted on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vbdguard.config import MixtureConfig
from vbdguard.method.contrast import ClassMeans, natural_covariance
from vbdguard.method.mixture import Mixture, View, fit_mixture
from vbdguard.method.samples import Samples
from vbdguard.method.window import window_at

SIDE, CLASSES = 14, 5
PATTERN = torch.tensor([[255, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.uint8)[:, :, None]

BLEND = 0.6


def textures(per_class: int, seed: int) -> tuple[Samples, Tensor]:
    """Return smooth noise of which a fifth of class 0 carries a 3 x 3 pattern, and which samples do, bool (N,)."""
    rng = np.random.default_rng(seed)
    n = CLASSES * per_class
    noise = rng.normal(size=(n, SIDE + 2, SIDE + 2, 3))
    smooth = sum(noise[:, i : i + SIDE, j : j + SIDE] for i in range(3) for j in range(3))
    images = torch.from_numpy((128 + 12 * smooth).clip(0, 255).astype(np.uint8))
    labels = torch.arange(n) % CLASSES
    carries = (labels == 0) & (torch.arange(n) % (5 * CLASSES) == 0)
    images[carries, 4:7, 7:10] = images[carries, 4:7, 7:10].float().lerp(PATTERN.float(), BLEND).to(torch.uint8)
    return Samples(images, labels, CLASSES), carries


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    samples, _ = textures(per_class=300, seed=0)
    means = ClassMeans.of(samples)
    own, others = samples.members(0), (samples.labels != 0).nonzero().squeeze(1)
    natural = natural_covariance(means.leaving_out(0).against_others()[1:], 9, 0.9)
    window = window_at(5, 8, 9, (SIDE, SIDE))
    found = fit_mixture(View.of(samples.images, own, others, means.without(0), natural, window), MixtureConfig())
    assert found is not None
    return found


def test_new_carriers_are_told_from_new_clean_samples(mixture: Mixture) -> None:
    samples, carries = textures(per_class=300, seed=1)
    own = samples.members(0)
    logits = mixture.trace.logits(samples.images, own)
    assert logits.shape == (300,)
    assert logits.dtype == torch.float32
    assert torch.equal(logits > 0, carries[own])


def test_the_samples_of_the_fit_are_judged_as_the_fit_judged_them(mixture: Mixture) -> None:
    """There each has one filter; where the trigger is as clear as here, both say the same."""
    samples, _ = textures(per_class=300, seed=0)
    logits = mixture.trace.logits(samples.images, samples.members(0))
    assert torch.equal(logits > 0, torch.from_numpy(mixture.posterior > 0.5))


def test_both_filters_have_their_say(mixture: Mixture) -> None:
    samples, _ = textures(per_class=40, seed=2)
    own = samples.members(0)
    trace = mixture.trace
    alone = [
        type(trace)(trace.window, trace.mean, [half], trace.share).logits(samples.images, own) for half in trace.halves
    ]
    assert len(alone) == 2
    assert not torch.equal(*alone)
    torch.testing.assert_close(trace.logits(samples.images, own), (alone[0] + alone[1]) / 2)
