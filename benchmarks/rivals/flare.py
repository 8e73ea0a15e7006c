"""FLARE (Hou et al., IEEE TIFS 2025): poison is abnormal in some layer of the network, whatever its target label.

For each sample and each batch normalisation the method takes the least log-density of the layer's inputs under its
running statistics: a vector with one number per layer. UMAP lays the vectors out in the plane and HDBSCAN clusters
them; of the tree of clusters the first split into lasting ones is kept. The largest cluster is benign, every other one
is poison, and samples in none are benign. Late layers may hide the difference, so one after the other is dropped
from the end until such a split is there.

Settings: UMAP with 40 neighbours and minimum distance 0 in 2 dimensions, clusters of at least 100, three levels of the
tree, a lasting cluster's lambda rises by more than 0.02. Departures: at most half of the layers are dropped, and if
none of these trees has a lasting split, nothing is flagged; the sources do not say what ends the search.
Where poison makes up fewer than 100 samples it can form no cluster.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.methods import Task, Verdict
from benchmarks.rivals.activations import least_log_densities
from benchmarks.rivals.cluster_tree import ClusterTree
from benchmarks.rivals.stopwatch import Stopwatch
from benchmarks.rivals.verdicts import verdict
from benchmarks.rivals.victims import Victims


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The knobs of FLARE."""

    neighbours: int = 40
    least_cluster: int = 100
    levels: int = 3
    least_gain: float = 0.02
    """What the lambda of a lasting cluster rises by, from its birth to its own split."""
    embedding_seed: int = 42


def detect(
    data: Task, victims: Victims, *, seed: int, device: torch.device, settings: Settings | None = None
) -> Verdict:
    """Return the samples in all clusters but the largest. Needs neither clean samples nor the ratio."""
    settings = settings or Settings()
    victim = victims.of(data, seed=seed, device=device)
    watch = Stopwatch()
    with watch.stage("densities"):
        densities = least_log_densities(victim, victim.pixels)
    with watch.stage("clusters"):
        is_flagged, dropped = find_poison(densities, settings)
    used = {**asdict(settings), "dropped_layers": dropped}
    return verdict(data, is_flagged, watch.seconds, used, victim=victim)


def find_poison(densities: NDArray[np.floating], settings: Settings) -> tuple[NDArray[np.bool_], int]:
    """Return which samples are poison, bool (N,), and how many layers were dropped to see it.

    Args:
        densities: float (N, L), as `least_log_densities` returns them.
        settings: of embedding and tree.
    """
    count, layers = densities.shape
    for dropped in range(layers // 2 + 1):
        if count <= 2 * settings.least_cluster:
            break
        tree = cluster_tree(embed(densities[:, : layers - dropped], settings), settings.least_cluster)
        cut = tree.lasting_split(levels=settings.levels, least_gain=settings.least_gain)
        if cut is not None:
            return outside_largest(tree.clusters_at(cut), settings.least_cluster), dropped
    return np.zeros(count, dtype=np.bool_), layers // 2


def outside_largest(clusters: NDArray[np.int64], least_cluster: int) -> NDArray[np.bool_]:
    """Return bool (N,), true for members of clusters that are large enough, but for the largest one's.

    Args:
        clusters: int64 (N,), which cluster a sample is in; -1 for none.
        least_cluster: samples that a cluster must hold.
    """
    labels, sizes = np.unique(clusters[clusters >= 0], return_counts=True)
    if not len(labels):
        return np.zeros(len(clusters), dtype=np.bool_)
    is_poison = (sizes >= least_cluster) & (labels != labels[sizes.argmax()])
    return np.isin(clusters, labels[is_poison])


def embed(densities: NDArray[np.floating], settings: Settings) -> NDArray[np.float32]:
    """Return the rows (N, L) in the plane, float32 (N, 2)."""
    import umap  # type: ignore[import-untyped]

    neighbours = min(settings.neighbours, len(densities) - 1)
    with warnings.catch_warnings():
        # A seed costs the parallel walk, which is meant: results must not depend on the threads.
        warnings.filterwarnings("ignore", message="n_jobs value", category=UserWarning)
        # Poison that shares no neighbour with the rest is what the method hopes for.
        warnings.filterwarnings("ignore", message="Graph is not fully connected", category=UserWarning)
        reducer = umap.UMAP(
            n_neighbors=neighbours, min_dist=0.0, n_components=2, random_state=settings.embedding_seed, n_jobs=1
        )
        plane: NDArray[np.float32] = reducer.fit_transform(densities)
    return plane


def cluster_tree(points: NDArray[np.floating], least_cluster: int) -> ClusterTree:
    """Return HDBSCAN's condensed tree of points (N, D) with clusters of at least so many."""
    import hdbscan  # type: ignore[import-untyped]

    clusterer = hdbscan.HDBSCAN(min_cluster_size=least_cluster, core_dist_n_jobs=1).fit(points.astype(np.float64))
    rows = clusterer.condensed_tree_.to_numpy()
    return ClusterTree(
        parents=rows["parent"].astype(np.int64),
        children=rows["child"].astype(np.int64),
        lambdas=rows["lambda_val"].astype(np.float64),
        n_points=len(points),
    )
