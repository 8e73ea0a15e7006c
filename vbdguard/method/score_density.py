"""Scales of matched filter scores, and their densities as smooth histograms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

LEAST_SCALE = 0.1
"""Part of the standard deviation that the robust one counts as, at least; in photographs it is half of it or more."""
_LOWEST, _HIGHEST, _BINS = -12.0, 40.0, 1040


def score_scale(scores: NDArray[np.float64], centre: float, length: float) -> float:
    """Return the robust standard deviation of scores around their median, above 0.

    Where most windows are the same, as on a white background, it would be nothing or the rounding of sums, whose order
    hangs on the processor. So each pixel counts as varying by one grey level at least.

    Args:
        scores: of windows without the trigger.
        centre: their median.
        length: Euclidean length of the filter.
    """
    least = LEAST_SCALE * max(float(scores.std()), length)
    return max(1.4826 * float(np.median(np.abs(scores - centre))), least) + 1e-12


def score_bins(scores: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the bin of each score; scores of other classes' windows have a robust standard deviation of 1."""
    position = (scores - _LOWEST) * (_BINS / (_HIGHEST - _LOWEST))
    return np.clip(position, 0, _BINS - 1).astype(np.intp)


def score_density(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a smooth histogram of scores, (bins,), never 0, so that likelihood ratios stay finite."""
    counts = np.bincount(score_bins(scores), minlength=_BINS).astype(np.float64)
    width = max(1.0, 1.06 * min(1.0, float(scores.std())) * len(scores) ** -0.2 * _BINS / (_HIGHEST - _LOWEST))
    smooth = gaussian_filter1d(counts, width, mode="nearest") + 1e-3 * gaussian_filter1d(counts, 40, mode="nearest")
    smooth += 1e-7 * len(scores)
    density: NDArray[np.float64] = smooth / smooth.sum()
    return density
