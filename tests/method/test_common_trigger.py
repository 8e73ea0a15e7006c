"""Triggers that several classes share, each at a place of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from vbdguard.method.common_trigger import Template, common_templates, template_scores
from vbdguard.method.contrast import natural_covariance
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.trigger import TriggerCandidate

SIDE, CLASSES, WINDOW = 20, 8, 9
CROSS = np.array([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]])[..., None] * np.array([20.0, -12, 6])


def template(shift: NDArray[np.float64], *, weight: float = 1.0, gain: float = 0.0, label: int = 0) -> Template:
    return Template(shift, weight, gain, frozenset({label}))


def smooth_contrasts(seed: int = 0) -> Tensor:
    noise = np.random.default_rng(seed).normal(size=(CLASSES, SIDE, SIDE, 3))
    return torch.from_numpy(30 * gaussian_filter(noise, (0, 3, 3, 0)))


def scores_of(template: Template, contrasts: Tensor) -> Tensor:
    return template_scores(template, contrasts, natural_covariance(smooth_contrasts(9), WINDOW, 1.0), WINDOW)


@pytest.mark.parametrize("place", [(0, 0), (17, 17), (0, 9), (8, 5), (17, 0), (2, 16)])
def test_a_template_scores_highest_where_a_class_shows_it_at_the_border_too(place: tuple[int, int]) -> None:
    contrasts = smooth_contrasts()
    top, left = place
    contrasts[3, top : top + 3, left : left + 3] += 0.02 * torch.from_numpy(CROSS)
    scores = scores_of(template(CROSS), contrasts)
    assert scores.shape == (CLASSES, SIDE - 2, SIDE - 2)
    assert divmod(int(scores[3].argmax()), SIDE - 2) == place
    assert float(scores[3, top, left]) > 2 * float(scores[[0, 1, 2, 4, 5, 6, 7]].max())


def test_natural_contrasts_score_about_one_standard_deviation() -> None:
    noise = torch.randn(smooth_contrasts().shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    contrasts = smooth_contrasts() + noise
    scores = template_scores(template(CROSS), contrasts, natural_covariance(contrasts, WINDOW, 1.0), WINDOW)
    assert float(scores.square().mean()) == pytest.approx(1.0, rel=0.5)


def test_the_opposite_of_a_template_scores_as_low() -> None:
    contrasts = smooth_contrasts()
    torch.testing.assert_close(scores_of(template(CROSS), -contrasts), -scores_of(template(CROSS), contrasts))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.floats(0.2, 5), st.integers(0, 1000))
def test_estimates_of_one_trigger_are_averaged_wherever_their_boxes_begin(
    top: int, left: int, scale: float, seed: int
) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.5, (2, 7, 7, 3))
    larger, exact = noise[0] * 0.1, CROSS + noise[1][:3, :3]
    larger[top : top + 3, left : left + 3] += scale * CROSS
    found = common_templates([template(exact, weight=300.0, gain=2.0), template(larger, weight=100.0, gain=1.0)])
    assert len(found) == 1
    assert found[0].weight == 400.0
    expected = (300 * exact + 100 * larger[top : top + 3, left : left + 3]) / 400
    np.testing.assert_allclose(found[0].shift, expected, atol=1e-9)


def test_different_triggers_stay_apart_and_are_few() -> None:
    rng = np.random.default_rng(0)
    templates = [template(rng.normal(0, 20, (4, 4, 3)), gain=10.0) for _ in range(7)]
    found = common_templates(templates)
    assert 1 < len(found) < 7
    assert all(a.is_like(b) for a, b in zip(found, templates, strict=False))
    assert not found[0].is_like(found[1])


def test_what_single_estimates_added_is_cut_off() -> None:
    wide = np.zeros((9, 8, 3))
    wide[3:6, 3:6] = CROSS
    wide[0, 0] = 1.0
    assert common_templates([template(wide)])[0].shift.shape == (3, 3, 3)


def test_a_template_is_what_a_planted_trigger_does_to_the_mean() -> None:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[4:6, 7:10] = True
    background = torch.full((SIDE, SIDE, 3), 100.0)
    planted = PlantedTrigger(TriggerCandidate(mask, 200.0 * mask.float().repeat(3, 1, 1)), 0.25)
    found = Template.of(planted, background, carriers=12.0, gain=80.0, label=3)
    np.testing.assert_allclose(found.shift, np.full((2, 3, 3), 25.0))
    assert (found.weight, found.gain, found.labels) == (12.0, 80.0, {3})


def test_what_no_class_shows_clearly_several_show_together() -> None:
    other = np.random.default_rng(0).normal(0, 20, (4, 4, 3))
    faint = [template(CROSS, gain=60.0, label=label) for label in range(4)]
    found = common_templates([*faint, template(other, gain=150.0, label=5)], least_gain=200.0)
    assert [(each.gain, each.labels) for each in found] == [(240.0, {0, 1, 2, 3})]
    assert common_templates(faint[:3], least_gain=200.0) == []
