"""Activation Clustering (Chen et al., SafeAI 2019): the activations of a poisoned class fall into two clusters.

Section 4, Algorithm 1: for each class, the penultimate activations are reduced to ten independent components and
split by 2-means. Of the paper's three ways to judge the clusters this is the relative size: the smaller cluster is
poison if it holds less than 35 % of the class. 2-means always splits, so clean classes can be accused.

Departures: features are centred per class first; the silhouette and exclusionary reclassification are left out, as
in the comparison that is to be met. The method is under a patent (US 11188789): it stands here to be compared with.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.methods import Task, Verdict
from benchmarks.rivals.activations import pooled_features
from benchmarks.rivals.stopwatch import Stopwatch
from benchmarks.rivals.verdicts import members, verdict
from benchmarks.rivals.victims import Victims


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The knobs of Activation Clustering."""

    components: int = 10
    largest_share: float = 0.35
    """A smaller cluster of at least this share of its class is taken for a natural one."""


def detect(
    data: Task, victims: Victims, *, seed: int, device: torch.device, settings: Settings | None = None
) -> Verdict:
    """Return the small clusters of each class. Needs neither clean samples nor the ratio."""
    settings = settings or Settings()
    victim = victims.of(data, seed=seed, device=device)
    watch = Stopwatch()
    with watch.stage("features"):
        features = pooled_features(victim, victim.pixels)
    is_flagged = np.zeros(len(data.labels), dtype=np.bool_)
    with watch.stage("clusters"):
        for indices in members(data):
            reduced = independent_components(features[indices], settings.components, seed=seed)
            is_flagged[indices] = is_in_small_cluster(reduced, settings.largest_share, seed=seed)
    return verdict(data, is_flagged, watch.seconds, asdict(settings), victim=victim)


def independent_components(features: NDArray[np.floating], count: int, *, seed: int) -> NDArray[np.float64]:
    """Return the centred rows (n, D) in at most `count` independent components of unit variance, float64 (n, c).

    There are fewer where the rows span fewer dimensions, and none for a class whose samples all look alike.
    """
    from sklearn.decomposition import FastICA  # type: ignore[import-untyped]
    from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]

    if len(features) < 2:
        return np.zeros((len(features), 0))
    centred = features - features.mean(0, dtype=np.float64)
    # Whitened here: scikit-learn's own whitening gives no numbers where the first feature is the same in all rows.
    axes, spreads, _ = np.linalg.svd(centred, full_matrices=False)
    noise = spreads.max(initial=0.0) * max(features.shape) * np.finfo(features.dtype).eps  # of the network's own type
    rank = min(count, int((spreads > noise).sum()))
    if rank == 0:
        return np.zeros((len(features), 0))
    with warnings.catch_warnings():
        # Gaussian directions have no preferred rotation; for 2-means any rotation of them serves as well.
        warnings.simplefilter("ignore", ConvergenceWarning)
        white = axes[:, :rank] * np.sqrt(len(centred))
        components: NDArray[np.float64] = FastICA(whiten=False, random_state=seed).fit_transform(white)
    return components


def is_in_small_cluster(points: NDArray[np.float64], largest_share: float, *, seed: int) -> NDArray[np.bool_]:
    """Return bool (n,), true in the smaller of two clusters if it holds less than `largest_share` of the points."""
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]

    if len(points) < 2 or points.shape[1] == 0:
        return np.zeros(len(points), dtype=np.bool_)
    second = KMeans(2, n_init=10, random_state=seed).fit_predict(points) == 1
    smaller: NDArray[np.bool_] = second if second.mean() < 0.5 else ~second
    return smaller if smaller.mean() < largest_share else np.zeros_like(smaller)
