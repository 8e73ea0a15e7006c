from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from benchmarks.rivals.scan import Settings, _with_fewer_clean, decompose, outlying_classes, untangle, whitening

BETWEEN = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 2.0]])
WITHIN = np.array([[1.0, 0.4, 0.0], [0.4, 0.8, 0.2], [0.0, 0.2, 0.5]])


def simulated(n_classes: int, per_class: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    means = rng.multivariate_normal(np.zeros(3), BETWEEN, n_classes)
    labels = np.repeat(np.arange(n_classes), per_class)
    return 5 + means[labels] + rng.multivariate_normal(np.zeros(3), WITHIN, len(labels)), labels, means


def test_the_global_model_recovers_the_covariances_that_made_the_data() -> None:
    x, labels, means = simulated(2000, 10)
    model = decompose(x, labels, 2000, Settings())
    # The maximisation step leaves the posterior covariance out, as the paper has it: a bias of about WITHIN / 10.
    assert model.within == pytest.approx(WITHIN, abs=0.15)
    assert model.between == pytest.approx(BETWEEN, abs=0.35)
    assert np.abs(model.class_means - means).mean() < 0.3


def test_class_means_are_those_of_the_papers_formula() -> None:
    x, labels, _ = simulated(30, 7)
    model = decompose(x, labels, 30, Settings(rounds=1))
    centred = x - x.mean(0)
    start = np.stack([centred[labels == label].mean(0) for label in range(30)])
    s_mu = start.T @ start / 30
    s_e = (centred - start[labels]).T @ (centred - start[labels]) / len(x)
    g = -np.linalg.inv(7 * s_mu + s_e) @ s_mu @ np.linalg.inv(s_e)
    expected = np.stack([sum(-s_e @ g @ row for row in centred[labels == label]) for label in range(30)])
    assert model.class_means == pytest.approx(expected, abs=1e-9)


def test_whitening_squares_to_the_pseudo_inverse() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 7))
    covariance = rows.T @ rows  # rank 4 of 7
    metric = whitening(covariance, 1e-6)
    assert metric.shape == (7, 4)
    assert metric @ metric.T == pytest.approx(np.linalg.pinv(covariance), abs=1e-8)


def test_the_likelihood_ratio_is_that_of_scipys_densities() -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(size=(60, 3)), rng.normal(size=(30, 3)) + 6])
    mean = np.array([0.5, 0.0, 0.0])
    split = untangle(x, mean, whitening(WITHIN, 1e-6), rng, rounds=100)
    two = sum(
        multivariate_normal.logpdf(group, group.mean(0), WITHIN).sum()
        for group in (x[split.is_second], x[~split.is_second])
    )
    one = multivariate_normal.logpdf(x, mean, WITHIN).sum()
    assert split.ratio == pytest.approx(2 * (two - one) / 90, rel=1e-9)


def test_two_groups_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    truth = np.arange(200) < 50
    x = rng.normal(size=(200, 5)) + 8 * truth[:, None]
    found = untangle(x, np.zeros(5), np.eye(5), rng, rounds=100).is_second
    assert (found == truth).all() or (found == ~truth).all()


def test_a_class_without_samples_is_no_evidence() -> None:
    split = untangle(np.zeros((0, 3)), np.zeros(3), np.eye(3), np.random.default_rng(0), rounds=10)
    assert split.ratio == 0


def test_only_the_class_that_stands_out_is_accused() -> None:
    ratios = np.array([1.0, 1.1, 0.9, 1.05, 9.0, 0.95])
    assert outlying_classes(ratios, np.e**2) == {4}


def test_no_class_is_accused_where_all_are_attacked_alike() -> None:
    assert outlying_classes(np.full(10, 7.0), np.e**2) == frozenset()
    assert outlying_classes(np.zeros(10), np.e**2) == frozenset()


def test_the_group_with_fewer_clean_samples_is_the_poison() -> None:
    is_second = np.array([True, True, True, False, False, True, False, False])
    assert _with_fewer_clean(is_second, 5).tolist() == [True, True, True, False, False]  # 1 clean to 2
    assert _with_fewer_clean(~is_second, 5).tolist() == [True, True, True, False, False]


def test_the_smaller_group_is_the_poison_where_both_hold_as_many_clean_samples() -> None:
    assert _with_fewer_clean(np.array([True, True, False, True, False]), 3).tolist() == [False, False, True]
