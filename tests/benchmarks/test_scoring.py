from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.methods import Verdict
from benchmarks.scoring import score


def verdict(flagged: np.ndarray, accused: set[int]) -> Verdict:
    return Verdict(flagged, frozenset(accused), {})


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_counting_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, flagged = rng.random(300) < 0.2, rng.random(300) < 0.3
    labels = np.where(truth, 1, rng.integers(0, 4, 300))
    found = score(verdict(flagged, {1, 3}), truth, labels)
    pairs = list(zip(truth.tolist(), flagged.tolist(), strict=True))
    hits, false, missed = (pairs.count(pair) for pair in ((True, True), (False, True), (True, False)))
    precision, recall = hits / (hits + false), hits / (hits + missed)
    assert found["precision"] == pytest.approx(100 * precision, abs=1e-3)
    assert found["recall"] == pytest.approx(100 * recall, abs=1e-3)
    assert found["f1"] == pytest.approx(200 * precision * recall / (precision + recall), abs=1e-3)
    assert (found["false_positives"], found["flagged"], found["poisoned"]) == (false, hits + false, hits + missed)
    assert found["false_positive_rate"] == pytest.approx(100 * false / (300 - truth.sum()), abs=1e-4)
    assert (found["classes_right"], found["classes_wrong"], found["classes_attacked"]) == (1, 1, 1)
    assert found["alarm"] is True


def test_clean_data_without_an_alarm_score_nothing_and_divide_by_nothing() -> None:
    found = score(verdict(np.zeros(20, np.bool_), set()), np.zeros(20, np.bool_), np.arange(20) % 4)
    assert found.pop("samples") == 20
    assert found.pop("alarm") is False
    assert set(found.values()) == {0}


def test_an_accused_class_is_an_alarm_even_without_a_flagged_sample() -> None:
    assert score(verdict(np.zeros(20, np.bool_), {2}), np.zeros(20, np.bool_), np.arange(20) % 4)["alarm"]


def test_flagging_everything_scores_what_the_poison_ratio_gives() -> None:
    truth = np.arange(1000) < 100
    found = score(verdict(np.ones(1000, np.bool_), {0}), truth, np.zeros(1000, np.int64))
    assert (found["f1"], found["precision"], found["recall"]) == (18.182, 10.0, 100.0)


@pytest.mark.parametrize("flagged", [np.zeros(19, np.bool_), np.zeros(20, np.int64)])
def test_a_verdict_that_is_not_about_the_samples_is_refused(flagged: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected a verdict of bool \(20,\)"):
        score(verdict(flagged, set()), np.zeros(20, np.bool_), np.zeros(20, np.int64))


def test_what_a_poisoned_model_has_learnt_is_told_of_clean_and_of_poisoned_samples() -> None:
    truth, is_learnt = np.arange(20) < 4, np.arange(20) > 0
    found = score(replace(verdict(truth, {0}), is_learnt=is_learnt), truth, np.zeros(20, np.int64))
    assert (found["learnt_poisoned"], found["learnt_clean"]) == (75.0, 100.0)
    on_clean = score(replace(verdict(truth, {0}), is_learnt=is_learnt), truth & False, np.zeros(20, np.int64))
    assert (on_clean["learnt_poisoned"], on_clean["learnt_clean"]) == (None, 95.0)
    assert "learnt_poisoned" not in score(verdict(truth, {0}), truth, np.zeros(20, np.int64))
