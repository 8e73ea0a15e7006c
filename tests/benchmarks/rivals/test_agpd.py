from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from benchmarks.rivals.agpd import Settings, class_gaps, clean_references, find_targets, poison_among
from benchmarks.rivals.growth import _distance, cosines, grow_poison, stable_round

from .conftest import K, Poisoning


def two_directions(n_clean: int, n_poison: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gradients around two orthogonal directions, and the clean one."""
    rng = np.random.default_rng(seed)
    clean, poison = np.eye(8)[0], np.eye(8)[1]
    rows = [clean + rng.normal(0, 0.05, (n_clean, 8)), poison + rng.normal(0, 0.05, (n_poison, 8))]
    return np.concatenate(rows), clean


@pytest.mark.parametrize("seed", range(3))
def test_poison_in_another_direction_is_found_to_the_last_sample(seed: int) -> None:
    gradients, clean = two_directions(300, 120, seed)
    is_flagged = poison_among(gradients, clean, Settings())
    assert is_flagged[300:].all()
    # A stretch of calm rounds seldom starts in the very round after the last poison.
    assert is_flagged[:300].mean() < 0.1


def test_the_gap_of_a_class_is_that_of_counting_one_by_one() -> None:
    gradients, clean = two_directions(20, 5)
    reference = torch.from_numpy(clean)
    cosine = [row @ clean / np.linalg.norm(row) / np.linalg.norm(clean) for row in gradients]
    seed = int(np.argmin(cosine))
    squares = []
    for index, row in enumerate(gradients):
        if index != seed:
            to_seed = row @ gradients[seed] / np.linalg.norm(row) / np.linalg.norm(gradients[seed])
            squares.append((cosine[index] - to_seed) ** 2)
    [gap] = class_gaps([torch.from_numpy(gradients)], [reference])
    assert gap == pytest.approx(math.sqrt(sum(squares)) / math.sqrt(25), rel=1e-6)


def test_a_class_of_one_sample_has_no_gap() -> None:
    assert class_gaps([torch.ones(1, 4)], [torch.ones(4)]).tolist() == [0]


def test_the_outlying_class_is_the_target_in_the_layer_that_shows_it_best() -> None:
    gaps = np.random.default_rng(0).normal(0.5, 0.01, (16, 10))
    gaps[6, 3], gaps[9, 3], gaps[6, 4] = 0.9, 2.0, 0.7
    targets = find_targets(gaps, Settings())
    assert (targets.layer, targets.labels) == (9, {3})


def test_a_fixed_gap_in_a_late_layer_decides_where_all_classes_are_alike() -> None:
    gaps = np.full((16, 10), 0.1) + np.linspace(0, 0.01, 10)
    gaps[13, :] = np.linspace(0.21, 0.5, 10)
    targets = find_targets(gaps, Settings())
    assert (targets.layer, targets.labels) == (13, {3, 4, 5, 6, 7, 8, 9})


def test_small_gaps_that_are_alike_accuse_nobody() -> None:
    gaps = np.full((16, 10), 0.1) + np.linspace(0, 0.01, 10)
    assert find_targets(gaps, Settings()).labels == frozenset()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10_000), st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_every_sample_joins_once_and_no_round_is_empty(n: int, seed: int, tau: float) -> None:
    rng = np.random.default_rng(seed)
    growth = grow_poison(rng.normal(size=(n, 4)), rng.normal(size=4), tau=tau)
    assert (growth.joined == -1).sum() == 1
    assert set(growth.joined.tolist()) == {-1, *range(len(growth.distances))}
    assert ((growth.distances >= 0) & (growth.distances <= 1)).all()


def test_the_distance_of_two_histograms_is_jensens_and_shannons() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random(300), rng.random(200) ** 2
    p, q = (np.histogram(rates, 99, (0, 1))[0] / len(rates) for rates in (before, after))
    divergence = entropy((p + q) / 2, base=2) - (entropy(p, base=2) + entropy(q, base=2)) / 2
    assert _distance(before, after) == pytest.approx(math.sqrt(divergence), rel=1e-9)


def test_growth_stops_where_the_calmest_stretch_starts() -> None:
    rng = np.random.default_rng(0)
    distances = np.concatenate([rng.random(7), np.full(12, 0.05), rng.random(9)])
    scores = [np.mean(distances[i : i + 10]) + 5 * np.std(distances[i : i + 10]) for i in range(len(distances) - 9)]
    assert stable_round(distances, window=10, spread_weight=5) == int(np.argmin(scores)) == 7


@pytest.mark.parametrize(("distances", "expected"), [([], 0), ([1.0], 0), ([0.9, 0.1, 0.1, 1.0], 1)])
def test_few_rounds_have_shorter_stretches(distances: list[float], expected: int) -> None:
    assert stable_round(np.array(distances), window=10, spread_weight=5) == expected


def test_a_gradient_without_length_has_cosine_0() -> None:
    assert cosines(np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([0.0, 2.0])).tolist() == [0, 0.8]


def test_a_class_without_clean_samples_is_named(poisoning: Poisoning) -> None:
    images, labels = poisoning.task.clean_images, poisoning.task.clean_labels
    assert images is not None
    assert labels is not None
    with pytest.raises(ValueError, match="got none of class 4"):
        clean_references(poisoning.victim, images[labels != 4], labels[labels != 4], K)
