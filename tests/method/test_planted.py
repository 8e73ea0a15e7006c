"""What a trigger does to the mean of its carriers, and the blend factors that can do so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vbdguard.method.planted import PlantedTrigger, lowest_blend_factor
from vbdguard.method.trigger import TriggerCandidate

MASK = torch.tensor([[True, False], [True, True]])


@pytest.mark.parametrize("blend_factor", [0.0, -0.1, 1.01, float("nan")])
def test_a_blend_factor_out_of_range_is_refused(blend_factor: float) -> None:
    with pytest.raises(ValueError, match="blend_factor must be above 0 and at most 1"):
        PlantedTrigger(TriggerCandidate(MASK, torch.zeros(3, 2, 2)), blend_factor)


def test_the_mean_moves_towards_the_pattern_inside_the_mask() -> None:
    planted = PlantedTrigger(TriggerCandidate(MASK, torch.full((1, 2, 2), 200.0)), 0.25)
    shift = planted.shift(torch.full((1, 2, 2), 100.0))
    assert shift.tolist() == [[[25.0, 0.0], [25.0, 25.0]]]


@given(st.floats(0.05, 1), st.floats(0, 255), st.floats(10, 245))
def test_no_trigger_needs_more_than_its_own_blend_factor(factor: float, pattern: float, background: float) -> None:
    shift = factor * (np.array([[pattern]]) - background)
    assert lowest_blend_factor(shift, np.array([[background]])) <= factor + 1e-9
    extreme = factor * ((255.0 if pattern > background else 0.0) - np.array([[background]]))
    assert lowest_blend_factor(extreme, np.array([[background]])) == pytest.approx(factor)


def test_what_hardly_moves_the_mean_is_no_clear_part_of_a_trigger() -> None:
    pattern = torch.tensor([[[200.0, 9.0], [130.0, 180.0]]])
    planted = PlantedTrigger(TriggerCandidate(MASK, pattern), 0.25)
    clear = planted.clearer(torch.full((1, 2, 2), 100.0), 0.35)
    assert clear.trigger.mask.tolist() == [[True, False], [False, True]]
    assert clear.trigger.pattern.tolist() == [[[200.0, 0.0], [0.0, 180.0]]]
    assert clear.blend_factor == 0.25
    assert planted.clearer(torch.full((1, 2, 2), 100.0), 0.25).trigger.mask.equal(MASK)


def test_of_a_black_trigger_on_black_no_part_is_clear() -> None:
    planted = PlantedTrigger(TriggerCandidate(MASK, torch.zeros(1, 2, 2)), 1.0)
    assert planted.clearer(torch.zeros(1, 2, 2), 0.35).trigger.mask.equal(MASK)
