"""How far each class stands from the others, by median and median absolute deviation (MAD)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TO_SIGMA = 1.4826
"""The MAD of a normal distribution times this is its standard deviation."""


def deviations(values: NDArray[np.float64], *, floor: float = 1e-12) -> NDArray[np.float64]:
    """Return (values - median) / (1.4826 (MAD + floor)) along the last axis.

    Args:
        values: float64 (..., K).
        floor: added to the MAD; above 0, so that classes that are all alike deviate by 0 and not by 0 / 0.
    """
    centred = values - np.median(values, axis=-1, keepdims=True)
    mad = np.median(np.abs(centred), axis=-1, keepdims=True)
    scaled: NDArray[np.float64] = centred / (_TO_SIGMA * (mad + floor))
    return scaled
