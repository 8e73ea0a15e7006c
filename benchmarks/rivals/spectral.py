"""Spectral Signatures (Tran, Li, Madry, NeurIPS 2018): poison stands out along a class's direction of most variance.

Algorithm 1: for each class, centre the penultimate representations, take the top right singular vector, score each
sample by its squared projection, and remove the 1.5 epsilon n highest scores of every class.

Epsilon is the share of poison that the method is told. The quota is fixed: whatever the data, every class loses it.
Told more than 0 on clean data, it raises an alarm by construction; where one class holds all the poison, most stays.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.methods import Task, Verdict
from benchmarks.rivals.activations import pooled_features
from benchmarks.rivals.stopwatch import Stopwatch
from benchmarks.rivals.verdicts import members, told_ratio, verdict
from benchmarks.rivals.victims import Victims


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The knobs of Spectral Signatures."""

    excess: float = 1.5
    """How many times the told share of poison is removed."""


def detect(
    data: Task, victims: Victims, *, seed: int, device: torch.device, settings: Settings | None = None
) -> Verdict:
    """Return the highest spectral scores of every class. Needs the ratio."""
    settings = settings or Settings()
    ratio = told_ratio(data)
    victim = victims.of(data, seed=seed, device=device)
    watch = Stopwatch()
    with watch.stage("features"):
        features = pooled_features(victim, victim.pixels)
    is_flagged = np.zeros(len(data.labels), dtype=np.bool_)
    with watch.stage("scores"):
        for indices in members(data):
            scores = spectral_scores(features[indices])
            quota = min(len(indices), round(settings.excess * ratio * len(indices)))
            is_flagged[indices[np.argsort(-scores, kind="stable")[:quota]]] = True
    return verdict(data, is_flagged, watch.seconds, {**asdict(settings), "ratio": ratio}, victim=victim)


def spectral_scores(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the squared projection of each centred row on the direction of most variance.

    Args:
        features: float (n, D), one class.

    Returns:
        float64 (n,), at least 0.
    """
    if not len(features):
        return np.zeros(0)
    centred = features - features.mean(0, dtype=np.float64)
    # The top eigenvector of the D x D scatter is the top right singular vector, and far cheaper for many samples.
    direction = np.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    scores: NDArray[np.float64] = np.square(centred @ direction)
    return scores
