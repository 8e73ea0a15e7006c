from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vbdguard.config import MethodConfig, RegionDetectorConfig
from vbdguard.method.ensemble import Ensemble
from vbdguard.method.region_detector import RegionDetector, _posterior, fit_region_detector, window_around


@st.composite
def masks(draw: st.DrawFn) -> Tensor:
    height, width = draw(st.integers(6, 24)), draw(st.integers(6, 24))
    places = draw(st.lists(st.tuples(st.integers(0, height - 1), st.integers(0, width - 1)), min_size=1, max_size=8))
    mask = torch.zeros(height, width, dtype=torch.bool)
    for place in places:
        mask[place] = True
    return mask


@settings(max_examples=150, deadline=None)
@given(masks(), st.integers(0, 6), st.integers(4, 16))
def test_the_window_lies_in_the_image_is_never_too_large_and_holds_what_it_can(
    mask: Tensor, margin: int, max_side: int
) -> None:
    window = window_around(mask, margin, max_side)
    height, width = mask.shape
    rows, columns = (mask.any(axis).nonzero().squeeze(1) for axis in (1, 0))
    assert 0 <= window.top < window.bottom <= height
    assert 0 <= window.left < window.right <= width
    assert max(window.bottom - window.top, window.right - window.left) <= max_side
    inside = int(mask[window.top : window.bottom, window.left : window.right].sum())
    if max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) < max_side:
        assert inside == int(mask.sum())
    else:
        tops = range(max(1, height - max_side + 1))
        lefts = range(max(1, width - max_side + 1))
        best = max(int(mask[top : top + max_side, left : left + max_side].sum()) for top in tops for left in lefts)
        assert inside == best


@pytest.mark.parametrize(("margin", "expected"), [(0, (13, 16, 13, 16)), (2, (11, 16, 11, 16)), (50, (0, 16, 0, 16))])
def test_the_margin_stops_at_the_border(margin: int, expected: tuple[int, int, int, int]) -> None:
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[13:, 13:] = True
    window = window_around(mask, margin, 16)
    assert (window.top, window.bottom, window.left, window.right) == expected
    assert window.cut(torch.zeros(2, 5, 16, 16)).shape[2:] == (expected[1] - expected[0], expected[3] - expected[2])


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_the_posterior_finds_the_share_of_poison_and_is_bayes_rule(share: float) -> None:
    """Two normal distributions, 4 apart: a net trained on even odds gives logit 4 x; the rest is a closed form."""
    rng = np.random.default_rng(0)
    is_poisoned = np.arange(20_000) < share * 20_000
    logits = 4 * (rng.normal(size=20_000) + np.where(is_poisoned, 2, -2))
    shift, posterior = _posterior(torch.from_numpy(logits).float())
    assert shift == pytest.approx(math.log(share / (1 - share)), abs=0.15)
    expected = share / (share + (1 - share) * np.exp(-logits))
    np.testing.assert_allclose(posterior, expected, atol=0.04)
    assert float(posterior.mean()) == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize(("level", "expected"), [(-30.0, 1e-4), (30.0, 0.99)])
def test_a_class_without_poison_or_with_nothing_else_has_a_bounded_share(level: float, expected: float) -> None:
    shift, posterior = _posterior(torch.full((100,), level))
    assert shift == pytest.approx(math.log(expected / (1 - expected)), abs=1e-3)
    assert posterior.isfinite().all()
    assert bool((posterior > 0.5).all()) is (level > 0)


def test_few_borderline_logits_are_no_alarm_among_many_clean_ones() -> None:
    logits = torch.cat([torch.full((990,), -8.0), torch.full((10,), 1.0)])
    assert float((logits[-1]).sigmoid()) > 0.7
    _, posterior = _posterior(logits)
    assert float(posterior.max()) < 0.5


@pytest.fixture(scope="module")
def fitted(ensemble: Ensemble, planted: Any, method: MethodConfig) -> RegionDetector:
    assert isinstance(method.detector, RegionDetectorConfig)
    return fit_region_detector(
        [fitted.model for fitted in ensemble.models],
        planted.samples,
        planted.target,
        planted.trigger,
        method.detector,
        generator=torch.Generator().manual_seed(0),
    )


def test_the_detector_tells_poisoned_from_clean_in_its_class(fitted: RegionDetector, planted: Any) -> None:
    members = planted.samples.members(planted.target)
    scores = fitted.scores(planted.samples.images[members])
    flagged, truth = scores > fitted.threshold, planted.is_poisoned[members]
    assert 0 <= float(scores.min()) <= float(scores.max()) <= 1
    assert float(flagged[truth].float().mean()) > 0.95
    assert float(flagged[~truth].float().mean()) < 0.03


def test_the_scores_are_posteriors_under_the_share_of_poison_in_the_class(fitted: RegionDetector, planted: Any) -> None:
    members = planted.samples.members(planted.target)
    truth = float(planted.is_poisoned[members].float().mean())
    assert 1 / (1 + math.exp(-fitted.shift)) == pytest.approx(truth, abs=0.03)


def test_it_looks_at_the_window_and_its_gradients_only(fitted: RegionDetector, planted: Any) -> None:
    window = fitted.window
    assert (window.bottom, window.right) == (16, 16)
    assert min(window.top, window.left) >= 10
    assert fitted.net.weight.shape[1] == 3 * (1 + len(fitted.models))


def test_the_generator_alone_decides_the_detector(ensemble: Ensemble, planted: Any, method: MethodConfig) -> None:
    quick = RegionDetectorConfig(others=64, epochs=1, batch_size=32)
    scores = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(scores))
        detector = fit_region_detector(
            [ensemble.models[1].model],
            planted.samples,
            planted.target,
            planted.trigger,
            quick,
            generator=torch.Generator().manual_seed(seed),
        )
        scores.append(detector.scores(planted.samples.images[:50]))
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])
