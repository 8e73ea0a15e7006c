"""Stage 5 of preset `default`: what it makes of known triggers, and its share of poison on drawn numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from vbdguard.config import DirectMethodConfig, WindowDetectorConfig
from vbdguard.method.moves import Reading
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.samples import Samples
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window_detector import (
    MatchedFilter,
    Sight,
    WindowDetector,
    _matched_filters,
    fit_window_detectors,
    share_of_poison,
)


def fit(
    samples: Samples, target: int, planted: PlantedTrigger, config: WindowDetectorConfig, seed: int = 0
) -> WindowDetector:
    others = (samples.labels != target).nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(seed)
    sight = Sight(samples.members(target), others, Reading(planted))
    return fit_window_detectors(samples, [sight], config, generator=generator)[0]


@pytest.fixture(scope="module")
def fitted(planted: Any, method: DirectMethodConfig) -> WindowDetector:
    return fit(planted.samples, planted.target, PlantedTrigger(planted.trigger, 1.0), method.detector)


def test_the_detector_tells_poisoned_from_clean_in_its_class(fitted: WindowDetector, planted: Any) -> None:
    members = planted.samples.members(planted.target)
    is_flagged = fitted.logits(planted.samples.images, members) > 0
    truth = planted.is_poisoned[members]
    assert float(is_flagged[truth].float().mean()) > 0.95
    assert float(is_flagged[~truth].float().mean()) < 0.03


def test_its_share_is_that_of_the_poison_in_the_class(fitted: WindowDetector, planted: Any) -> None:
    members = planted.samples.members(planted.target)
    assert 1 / (1 + math.exp(-fitted.shift)) == pytest.approx(
        float(planted.is_poisoned[members].float().mean()), abs=0.03
    )
    # a hundred samples that no clean class holds
    assert fitted.gain > 200


def test_it_sees_the_window_and_nothing_else(fitted: WindowDetector, planted: Any) -> None:
    window = fitted.window
    assert (window.bottom, window.right) == (16, 16)
    assert planted.trigger.mask[window.top :, window.left :].sum() == planted.trigger.mask.sum()
    images = planted.samples.images[:40].clone()
    before = fitted.logits(images, torch.arange(40))
    images[:, : window.top] = 0
    images[:, :, : window.left] = 255
    assert torch.equal(fitted.logits(images, torch.arange(40)), before)


def test_a_class_without_the_trigger_is_not_flagged(planted: Any, natural: Samples, method: DirectMethodConfig) -> None:
    found = fit(natural, 1, PlantedTrigger(planted.trigger, 1.0), method.detector)
    assert not (found.logits(natural.images, natural.members(1)) > 0).any()
    assert found.gain < method.mixture.min_gain


def test_a_faint_trigger_is_seen_where_its_blend_factor_is_known(
    planted: Any, natural: Samples, method: DirectMethodConfig
) -> None:
    blend, count = 0.3, 60
    members = natural.members(0)
    images = natural.images.clone()
    images[members[:count]] = planted.trigger.paste(natural.images[members[:count]], torch.full((count,), blend))
    samples = replace(natural, images=images)
    logits = fit(samples, 0, PlantedTrigger(planted.trigger, blend), method.detector).logits(images, members)
    assert float((logits[:count] > 0).float().mean()) > 0.9
    assert float((logits[count:] > 0).float().mean()) < 0.03


def test_the_generator_alone_decides_the_detector(planted: Any) -> None:
    quick, trigger = WindowDetectorConfig(epochs=1, batch_size=64), PlantedTrigger(planted.trigger, 1.0)
    some = torch.arange(50)
    logits = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(logits))
        detector = fit(planted.samples, planted.target, trigger, quick, seed)
        logits.append(detector.logits(planted.samples.images, some))
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_the_share_of_poison_is_found_and_makes_the_logit_a_posterior(share: float) -> None:
    """Two normal distributions, 4 apart: a net trained on even odds gives logit 4 x; the rest is a closed form."""
    rng = np.random.default_rng(0)
    is_poisoned = np.arange(20_000) < share * 20_000
    logits = 4 * (rng.normal(size=20_000) + np.where(is_poisoned, 2, -2))
    shift, gain = share_of_poison(torch.from_numpy(logits).float())
    assert shift == pytest.approx(math.log(share / (1 - share)), abs=0.15)
    posterior = 1 / (1 + np.exp(-(logits + shift)))
    np.testing.assert_allclose(posterior, share / (share + (1 - share) * np.exp(-logits)), atol=0.04)
    assert float(posterior.mean()) == pytest.approx(share, rel=0.05)
    expected = np.log(share * np.exp(logits) + 1 - share).sum()  # log-likelihood ratio: exp(logit) against 1
    assert gain == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("level", "expected"), [(-30.0, 1e-4), (30.0, 0.99)])
def test_a_class_without_poison_or_with_nothing_else_has_a_bounded_share(level: float, expected: float) -> None:
    shift, gain = share_of_poison(torch.full((100,), level))
    assert shift == pytest.approx(math.log(expected / (1 - expected)), abs=1e-3)
    assert (gain > 100) is (level > 0)
    assert gain > -1


def test_few_borderline_logits_are_no_alarm_among_many_clean_ones() -> None:
    shift, gain = share_of_poison(torch.cat([torch.full((990,), -8.0), torch.full((10,), 1.0)]))
    assert 1.0 + shift < 0
    assert gain < 5


def test_the_matched_filter_is_the_linear_discriminant() -> None:
    """Against numpy: inverse covariance (with rounding noise) times the shift, other classes' scores scaled to 1."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(40, 200, (400, 4, 3, 2), dtype=torch.uint8, generator=generator)
    stamped = clean.clone()
    stamped[:, 1:3, 1] = 220
    (matched,) = _matched_filters(clean, stamped, torch.zeros(len(clean), dtype=torch.int64)).filters
    x, y = (part.reshape(400, -1).double().numpy() for part in (clean, stamped))
    weights = np.linalg.solve(np.cov(x.T, bias=True) + 4 * np.eye(x.shape[1]), y.mean(0) - x.mean(0))
    direction = matched.weights.double().numpy()
    cosine = direction @ weights / np.linalg.norm(direction) / np.linalg.norm(weights)
    assert cosine == pytest.approx(1.0, abs=1e-5)
    scores = x @ direction - matched.centre
    assert float(np.median(scores)) == pytest.approx(0.0, abs=0.02)
    assert 1.4826 * float(np.median(np.abs(scores))) == pytest.approx(1.0, abs=0.02)
    assert float((y @ direction - matched.centre).min()) > 3


def test_the_matched_filter_gives_bounded_numbers_whatever_the_pixels() -> None:
    clean = torch.randint(100, 110, (50, 6, 6, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    stamped = clean.clone()
    stamped[:, 2:4, 2:4] = 105
    scores = _matched_filters(clean, stamped, torch.zeros(len(clean), dtype=torch.int64))(
        torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 6, 6, 1)
    )
    assert scores.isfinite().all()
    assert float(scores.abs().max()) <= 15


def test_a_trigger_in_the_corner_of_an_image_smaller_than_the_window_can_be_learned() -> None:
    images = torch.randint(0, 256, (1600, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(1600) % 2
    images[:80:2, :2, :2] = 255
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:2, :2] = True
    trigger = PlantedTrigger(TriggerCandidate(mask, 255.0 * mask.expand(3, 8, 8)), 1.0)
    samples = Samples(images, labels, 2)
    found = fit(samples, 0, trigger, WindowDetectorConfig(batch_size=64))
    assert found.window.size == (6, 6)
    flagged = found.logits(images, samples.members(0)) > 0
    assert flagged[:40].all()
    assert int(flagged[40:].sum()) <= 2


@pytest.mark.parametrize("white", [0.0, 0.8, 1.0])
def test_a_filter_over_windows_that_are_mostly_the_same_is_no_noise(white: float) -> None:
    """Divided by next to nothing, a score would hang on how many windows are looked at together."""
    generator = torch.Generator().manual_seed(0)
    windows = torch.randint(0, 256, (500, 7, 7, 3), dtype=torch.uint8, generator=generator)
    windows[: round(white * 500)] = 255
    weights = torch.randn(7 * 7 * 3, generator=generator)
    matched = MatchedFilter.scaled(weights, windows)
    together = matched(windows)
    alone = torch.cat([matched(window[None]) for window in windows[::25]])
    torch.testing.assert_close(alone, together[::25], atol=0.05, rtol=0.001)
    assert float(together.abs().max()) < 100
