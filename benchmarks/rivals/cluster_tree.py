"""The tree of clusters that HDBSCAN condenses: which clusters split off at which density, and a cut through it.

Lambda is one over the distance: it grows towards the leaves. The root holds all points and has lambda 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class ClusterTree:
    """One row for each cluster but the root, and one for each point where it leaves its last cluster."""

    parents: NDArray[np.int64]
    """int64 (R,), the cluster that the row's child leaves or splits off from; the smallest is the root."""
    children: NDArray[np.int64]
    """int64 (R,), a point if below `n_points`, else a cluster."""
    lambdas: NDArray[np.float64]
    """float64 (R,), where that happens."""
    n_points: int

    @property
    def root(self) -> int:
        """The cluster of all points."""
        return self.n_points

    def split_of(self, cluster: int) -> NDArray[np.int64]:
        """Return the clusters that one splits into, the largest first; none for a leaf."""
        found = self.children[(self.parents == cluster) & (self.children >= self.n_points)]
        sizes = np.array([self._size(int(child)) for child in found])
        largest_first: NDArray[np.int64] = found[np.argsort(-sizes, kind="stable")]
        return largest_first

    def birth(self, cluster: int) -> float:
        """Return the lambda at which a cluster splits off; 0 for the root."""
        rows = np.flatnonzero(self.children == cluster)
        return float(self.lambdas[rows[0]]) if len(rows) else 0.0

    def death(self, cluster: int) -> float:
        """Return the lambda at which a cluster splits, or loses its last point."""
        return float(self.lambdas[self.parents == cluster].max())

    def lasting_split(self, *, levels: int, least_gain: float) -> float | None:
        """Return the lambda of the first split, down the largest clusters, whose largest part lasts.

        Args:
            levels: splits to look at.
            least_gain: what the lambda of a lasting cluster exceeds that of its birth by when it dies.

        Returns:
            None if there is no such split.
        """
        cluster = self.root
        for _ in range(levels):
            parts = self.split_of(cluster)
            if not len(parts):
                return None
            cluster = int(parts[0])
            if self.death(cluster) - self.birth(cluster) > least_gain:
                return self.birth(cluster)
        return None

    def clusters_at(self, cut: float) -> NDArray[np.int64]:
        """Return which cluster each point is in right above a lambda, int64 (N,); -1 if it has left them all."""
        is_split = self.children >= self.n_points
        above = dict(zip(self.children[is_split].tolist(), self.parents[is_split].tolist(), strict=True))
        birth = dict(zip(self.children[is_split].tolist(), self.lambdas[is_split].tolist(), strict=True))

        def alive(cluster: int) -> int:
            while birth.get(cluster, 0.0) > cut:
                cluster = above[cluster]
            return cluster

        clusters = np.full(self.n_points, -1)
        stays = ~is_split & (self.lambdas > cut)
        last = self.parents[stays]
        homes = {int(cluster): alive(int(cluster)) for cluster in np.unique(last)}
        clusters[self.children[stays]] = [homes[cluster] for cluster in last.tolist()]
        return clusters

    def _size(self, cluster: int) -> int:
        """Return how many points a cluster has at its birth."""
        inside, size = [cluster], 0
        while inside:
            below = self.children[self.parents == inside.pop()]
            size += int((below < self.n_points).sum())
            inside += below[below >= self.n_points].tolist()
        return size
