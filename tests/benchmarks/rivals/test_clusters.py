"""Clusters of Activation Clustering and of FLARE, on points whose clusters are known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.rivals.cluster_tree import ClusterTree
from benchmarks.rivals.flare import cluster_tree, outside_largest


def blobs(*sizes: int, distance: float = 10.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    homes = np.repeat(np.arange(len(sizes)), sizes)
    return rng.normal(size=(len(homes), 2)) + distance * homes[:, None], homes


def small_tree() -> ClusterTree:
    """Six points: 0 leaves the root early, 6 -> 7 (points 1 to 3) and 8 (points 4, 5)."""
    rows = [(6, 0, 0.5), (6, 7, 1.0), (6, 8, 1.0), (7, 1, 3.0), (7, 2, 4.0), (7, 3, 1.5), (8, 4, 2.0), (8, 5, 1.01)]
    parents, children, lambdas = zip(*rows, strict=True)
    return ClusterTree(np.array(parents), np.array(children), np.array(lambdas), 6)


def test_a_tree_tells_births_deaths_and_parts() -> None:
    tree = small_tree()
    assert tree.split_of(6).tolist() == [7, 8]
    assert (tree.birth(6), tree.birth(7), tree.death(7), tree.death(8)) == (0, 1, 4, 2)


def test_the_first_split_into_a_lasting_cluster_is_the_cut() -> None:
    assert small_tree().lasting_split(levels=3, least_gain=0.02) == 1
    assert small_tree().lasting_split(levels=3, least_gain=3.5) is None


@pytest.mark.parametrize(
    ("cut", "clusters"),
    [(0.4, [6, 6, 6, 6, 6, 6]), (1.0, [-1, 7, 7, 7, 8, 8]), (1.6, [-1, 7, 7, -1, 8, -1]), (9.0, [-1] * 6)],
)
def test_a_cut_leaves_the_points_that_are_still_inside(cut: float, clusters: list[int]) -> None:
    assert small_tree().clusters_at(cut).tolist() == clusters


def test_all_large_clusters_but_the_largest_are_poison() -> None:
    clusters = np.array([7] * 5 + [8] * 3 + [9] * 2 + [-1])
    assert np.flatnonzero(outside_largest(clusters, 3)).tolist() == [5, 6, 7]
    assert not outside_largest(np.full(4, -1), 1).any()


def test_a_cut_is_the_one_that_hdbscan_makes() -> None:
    hdbscan = pytest.importorskip("hdbscan")
    points, _ = blobs(60, 40, 30)
    tree = cluster_tree(points, 15)
    cut = tree.lasting_split(levels=3, least_gain=0.02)
    assert cut is not None
    lambda_ = 1.3 * cut
    reference = hdbscan.HDBSCAN(min_cluster_size=15).fit(points).dbscan_clustering(1 / lambda_, min_cluster_size=15)
    found = tree.clusters_at(lambda_)
    assert ((found == -1) == (reference == -1)).all()
    pairs = set(zip(found.tolist(), reference.tolist(), strict=True))
    assert len(pairs) == len(set(found.tolist())) == len(set(reference.tolist())) > 2


def test_the_small_blob_is_found_by_its_tree() -> None:
    pytest.importorskip("hdbscan")
    points, homes = blobs(200, 40)
    tree = cluster_tree(points, 20)
    cut = tree.lasting_split(levels=3, least_gain=0.02)
    assert cut is not None
    assert (outside_largest(tree.clusters_at(cut), 20) == (homes == 1)).mean() > 0.95


def clustered(share: float) -> np.ndarray:
    pytest.importorskip("sklearn")
    from benchmarks.rivals.activation_clustering import independent_components, is_in_small_cluster

    count = round(share * 200)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 2)) @ np.array([[1.0, 0.3], [0.0, 1.0]])
    features[:count, 0] += 12
    return is_in_small_cluster(independent_components(features, 10, seed=0), 0.35, seed=0)


def test_a_small_group_of_activations_is_flagged_whole() -> None:
    assert np.flatnonzero(clustered(0.2)).tolist() == list(range(40))


def test_two_groups_of_like_size_are_taken_for_natural_ones() -> None:
    assert not clustered(0.45).any()


def test_components_are_uncorrelated_and_of_unit_variance() -> None:
    pytest.importorskip("sklearn")
    from benchmarks.rivals.activation_clustering import independent_components

    features = np.random.default_rng(0).exponential(size=(300, 5)) @ np.random.default_rng(1).normal(size=(5, 12))
    features[:, 0] = 0.7  # a unit that says the same of every sample
    components = independent_components(features, 10, seed=0)
    assert components.shape == (300, 5)  # the rows span no more
    assert np.cov(components.T, bias=True) == pytest.approx(np.eye(5), abs=1e-6)


def test_samples_that_all_look_alike_form_no_cluster() -> None:
    pytest.importorskip("sklearn")
    from benchmarks.rivals.activation_clustering import independent_components, is_in_small_cluster

    assert not is_in_small_cluster(independent_components(np.ones((9, 4)), 10, seed=0), 0.35, seed=0).any()
    assert independent_components(np.ones((0, 4)), 10, seed=0).shape == (0, 0)


def test_samples_that_are_abnormal_in_some_layers_are_found() -> None:
    for name in ("umap", "hdbscan"):
        pytest.importorskip(name)
    from benchmarks.rivals.flare import Settings, find_poison

    rng = np.random.default_rng(0)
    densities, is_poisoned = -5 + rng.normal(size=(500, 17)), np.arange(500) < 90
    densities[:90, 6:10] -= 12
    is_flagged, dropped = find_poison(densities, Settings(least_cluster=60))
    assert (is_flagged == is_poisoned).mean() > 0.98
    assert dropped == 0


def test_too_few_samples_for_two_clusters_are_not_judged() -> None:
    from benchmarks.rivals.flare import Settings, find_poison

    assert not find_poison(np.zeros((200, 17)), Settings())[0].any()
