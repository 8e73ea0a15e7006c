from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx  # noqa: PT013 - reads as the numbers do

from vbdguard.attacks.scoring import FlagScores, score_flags


def test_scores_of_a_worked_example() -> None:
    scores = score_flags(["a", "b", "c", "d"], ["b", "c", "d", "x", "x"])
    assert scores == FlagScores(true_positives=3, false_positives=1, false_negatives=1)
    assert (scores.precision, scores.recall, scores.f1) == (0.75, 0.75, 0.75)


def test_nothing_flagged_scores_zero_without_an_error() -> None:
    scores = score_flags(["a"], [])
    assert (scores.precision, scores.recall, scores.f1) == (0.0, 0.0, 0.0)


@given(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_f1_is_the_harmonic_mean(truth: set[int], found: set[int]) -> None:
    scores = score_flags([str(n) for n in truth], [str(n) for n in found])
    total = scores.precision + scores.recall
    assert scores.f1 == approx(2 * scores.precision * scores.recall / total if total else 0.0)
