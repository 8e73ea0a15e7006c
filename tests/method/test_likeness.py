"""Which of many shifts one is like."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vbdguard.method.likeness import Likeness, best_offset

CROSS = np.array([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]])[..., None] * np.array([20.0, -12, 6])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0.1, 2), st.integers(1, 3))
def test_none_that_is_alike_is_missed(seed: int, n: int, noise: float, channels: int) -> None:
    rng = np.random.default_rng(seed)
    shifts = [rng.normal(0, noise, (*rng.integers(1, 10, 2), channels)) for _ in range(n)]
    for shift in shifts[::2]:
        shift[: min(3, len(shift)), : min(3, shift.shape[1])] += CROSS[: len(shift), : shift.shape[1], :channels] / 10
    known = Likeness.to_any_of(shifts)
    for shift in shifts:
        known.add(shift)
    for shift in shifts:
        alike = {i for i, other in enumerate(shifts) if best_offset(shift, other) is not None}
        assert alike <= set(known.candidates(shift))


def test_hardly_any_other_is_named() -> None:
    rng = np.random.default_rng(0)
    shifts = [rng.normal(0, 20, (9, 9, 3)) for _ in range(40)]
    known = Likeness.to_any_of(shifts)
    for shift in shifts:
        known.add(shift)
    assert [known.candidates(shift) for shift in shifts] == [[i] for i in range(40)]


def test_what_is_known_can_change() -> None:
    rng = np.random.default_rng(1)
    first, second, third = (rng.normal(0, 20, (5, 6, 3)) for _ in range(3))
    known = Likeness.to_any_of([first, second, third])
    assert known.candidates(first) == []
    known.add(first)
    known.add(second)
    known.replace(0, third)
    assert known.candidates(first) == []
    assert known.candidates(third) == [0]
    assert known.candidates(second) == [1]
