"""Stage 4 of preset `default` where most of a class carries a trigger: whether its carriers come from all classes.

Not in the paper. An attack from all classes to one, on data of many classes, outnumbers the honest samples of the class
that it attacks: with 100 classes and 10 % poison eleven to one. Models that learn what that class looks like learn it
from the poison, and its few kept samples say little (`label_check`). But an attacker who draws from all classes draws a
cross-section of the data, and no natural class is one: the mean of what its images show lies away from the mean of all
others. How far other classes lie away says what is natural.

What images show is taken without labels, so that no class is at an advantage: colours in a few places and how much
brightness changes there, with the suspected triggers painted over.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_COLOUR_SIDE, _CHANGE_SIDE = 8, 4
"""Places a side in which colours and changes of brightness are averaged."""
_CHANGE_SCALE = 30.0
"""Grey levels that one unit of the logarithm of a change counts as: about as much as colours vary."""
_DIMENSIONS = 60
_LEAST_VARIANCE = 1e-6
"""Part of the largest variance below which a direction is rounding noise."""
_FEWEST_CLASSES, _FEWEST_SAMPLES = 8, 30
"""Other classes, and samples in each, that can tell how far a natural class lies away."""
_NEARER = 0.25
"""Part of the distance of the nearest natural class within which carriers must lie."""
_ERRORS = 2.0
"""Standard errors by which the carriers' distance may be larger than it was measured."""
_LEAST_SPREAD = 0.3
"""Of the logarithms of natural distances: a few classes may agree by chance."""
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class CrossSection:
    """How near the content of some samples lies to that of all other classes, and how near natural classes lie.

    Distances are squares, in units of the variance of single samples.
    """

    distance: float
    """An unbiased estimate: about 0 for a cross-section, and then as often below 0 as above."""
    standard_error: float
    least: float
    """Of the other classes' distances."""
    usual: float
    """Their median."""
    p_value: float
    """Chance that a natural class lies so near (log-normal)."""
    is_drawn_from_all: bool
    """Whether the samples lie much nearer than any natural class, and not by chance."""

    def __str__(self) -> str:
        words = f"{self.distance:.3f} +- {self.standard_error:.3f} from all others"
        return f"{words} (natural classes {self.usual:.2f}, at least {self.least:.2f}), p {self.p_value:.2g}"


def contents(images: Tensor) -> Floats:
    """Return what images show, float64 (N, D) with mean 0, variance 1 and no correlation over all of them; D <= 60.

    Args:
        images: uint8 (N, H, W, C), with the suspected triggers painted over.
    """
    features = torch.cat([_features(chunk) for chunk in images.split(_CHUNK)]).double()
    features -= features.mean(0)
    variances, directions = torch.linalg.eigh(features.T @ features / len(features))
    kept = (variances > max(_LEAST_VARIANCE * float(variances[-1]), 1e-12)).nonzero().squeeze(1)[-_DIMENSIONS:]
    whitened: Floats = (features @ directions[:, kept] / variances[kept].sqrt()).cpu().numpy()
    return whitened


def natural_distances(
    content: Floats, labels: NDArray[np.int64], is_kept: Bools, natural: Collection[int]
) -> list[float]:
    """Return how far natural classes lie from all other samples; those with few samples are left out.

    Args:
        content: (N, D), from `contents`.
        labels: (N,).
        is_kept: (N,), samples that no trigger flags.
        natural: labels of classes of which no trigger flags most samples.
    """
    total, n = content[is_kept].sum(0), int(is_kept.sum())
    distances = []
    for label in natural:
        own = content[is_kept & (labels == label)]
        if _FEWEST_SAMPLES <= len(own) < n - 1:
            distances.append(_distance(own, (total - own.sum(0)) / (n - len(own)))[0])
    return distances


def cross_section(
    carriers: Floats, comparable: Floats, natural: Sequence[float], *, significance: float
) -> CrossSection | None:
    """Return whether carriers of a trigger are drawn from all classes; None where too little could tell.

    Args:
        carriers: (n, D), content of samples of one class that surely carry the trigger.
        comparable: (m, D), content of samples of all other classes that would as surely be taken for carriers if they
            carried it: a faint trigger is told more easily from calm content.
        natural: distances of natural classes.
        significance: largest p-value of a cross-section.
    """
    fewest = min(len(carriers), len(comparable))
    if len(natural) < _FEWEST_CLASSES or fewest < _FEWEST_SAMPLES or not carriers.shape[1]:
        return None
    distances = np.array(natural)
    distance, standard_error = _distance(carriers, comparable.mean(0), comparable.var(0, ddof=1) / len(comparable))
    least, usual = float(distances.min()), float(np.median(distances))
    if least <= 0:  # some class lies as near as a cross-section, so nearness proves nothing
        return CrossSection(distance, standard_error, least, usual, 1.0, False)
    logs = np.log(distances)
    robust = 1.4826 * float(np.median(np.abs(logs - np.median(logs))))
    spread = max(robust, float(logs.std(ddof=1)), _LEAST_SPREAD)
    largest = max(distance, 0.0) + _ERRORS * standard_error
    away = (np.log(largest) - np.median(logs)) / (spread * np.sqrt(1 + 1 / len(logs)))
    p_value = float(student.cdf(away, len(logs) - 1))
    is_drawn = largest < _NEARER * least and p_value < significance
    return CrossSection(distance, standard_error, least, usual, p_value, is_drawn)


def _distance(content: Floats, from_mean: Floats, from_error: Floats | float = 0.0) -> tuple[float, float]:
    """Return the squared distance of the mean of (n, D) from a mean (D,), unbiased, and its standard error.

    Args:
        content: the samples.
        from_mean: that mean.
        from_error: its variance.
    """
    error = content.var(0, ddof=1) / len(content) + from_error
    excess = (content.mean(0) - from_mean) ** 2 - error
    variance = 2 * (error**2).sum() + 4 * (np.maximum(excess, 0) * error).sum()
    return float(excess.sum()), float(np.sqrt(variance))


def _features(images: Tensor) -> Tensor:
    """Return colours and changes of brightness of uint8 (n, H, W, C) images, float32 (n, F), in grey levels."""
    x = images.permute(0, 3, 1, 2).float()
    brightness = x.mean(1, keepdim=True)
    across, down = (brightness.diff(dim=axis).abs() for axis in (3, 2))
    changes = [F.adaptive_avg_pool2d(change, _CHANGE_SIDE).log1p() * _CHANGE_SCALE for change in (across, down)]
    colours = F.adaptive_avg_pool2d(x, _COLOUR_SIDE)
    return torch.cat([colours.flatten(1), *(change.flatten(1) for change in changes)], 1)
