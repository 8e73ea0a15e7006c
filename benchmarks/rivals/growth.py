"""How AGPD's set of poison grows round by round in one class, and when it should have stopped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

Array = NDArray[np.float64]
_BINS = 99


@dataclass(frozen=True, slots=True, eq=False)
class Growth:
    """In which order the samples of a class joined the poison."""

    joined: NDArray[np.int64]
    """int64 (n,), the round in which a sample joined, from 0; -1 for the seed."""
    distances: Array
    """float64 (R,), Jensen-Shannon distance of the rates left before and after each round, 0 to 1; 1 at the end."""


def grow_poison(gradients: Array, reference: Array, *, tau: float) -> Growth:
    """Return how poison grows from the sample least like the clean reference until nothing is left.

    A sample's rate is (1 - cos_p) / ((1 - cos_p) + (1 - cos_c)): 0 in the direction of the poison so far, 1 in that of
    the clean reference. Rates of those left are min-max normalised in each round, so at least one joins.

    Args:
        gradients: float64 (n, C), n >= 1.
        reference: float64 (C,).
        tau: normalised rate up to which a sample joins.
    """
    to_clean = cosines(gradients, reference)
    joined = np.zeros(len(gradients), dtype=np.int64)
    seed = int(to_clean.argmin())
    joined[seed] = -1
    total = gradients[seed].copy()
    left = np.delete(np.arange(len(gradients)), seed)
    rates = _normalised_rates(gradients[left], total, to_clean[left])
    distances: list[float] = []
    while len(left):
        joins = rates <= tau
        before = rates
        joined[left[joins]] = len(distances)
        total += gradients[left[joins]].sum(0)
        left = left[~joins]
        rates = _normalised_rates(gradients[left], total, to_clean[left])
        distances.append(_distance(before, rates) if len(left) else 1.0)
    return Growth(joined, np.array(distances))


def stable_round(distances: Array, *, window: int, spread_weight: float) -> int:
    """Return where the stretch of rounds starts that change the distribution of what is left least.

    The stretch has the smallest mean + spread_weight * standard deviation; what joined before it is poison.

    Args:
        distances: float64 (R,).
        window: rounds of a stretch; half of all, rounded up, if there are fewer than twice as many.
        spread_weight: at least 0.
    """
    if not len(distances):
        return 0
    length = min(window, (len(distances) + 1) // 2)
    stretches = np.lib.stride_tricks.sliding_window_view(distances, length)
    return int((stretches.mean(1) + spread_weight * stretches.std(1)).argmin())


def cosines(rows: Array, direction: Array) -> Array:
    """Return the cosine of each row (n, C) with a direction (C,); 0 where one of them has no length."""
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(direction)
    products: Array = rows @ direction
    found: Array = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return found


def _normalised_rates(gradients: Array, poison: Array, to_clean: Array) -> Array:
    """Return rates (n,) from 0, the closest to the poison, to 1; all 0 where they do not differ."""
    if not len(gradients):
        return np.zeros(0)
    from_poison, from_clean = 1 - cosines(gradients, poison), 1 - to_clean
    both = from_poison + from_clean
    rates = np.divide(from_poison, both, out=np.zeros_like(both), where=both > 0)
    low, high = rates.min(), rates.max()
    return (rates - low) / (high - low) if high > low else np.zeros_like(rates)


def _distance(before: Array, after: Array) -> float:
    densities = (np.histogram(rates, bins=_BINS, range=(0, 1), density=True)[0] for rates in (before, after))
    return float(jensenshannon(*densities, base=2))
