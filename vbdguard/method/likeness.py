"""Which triggers are the same, wherever they lie: what they do to the mean of their carriers is correlated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.signal import correlate

Floats = NDArray[np.float64]

_ALIKE = 0.7
"""Correlation, at the best alignment, from which on two triggers count as one."""
_ROUNDING = 1e-3
"""By which a correlation in single precision differs from an exact one, at the very most."""


class Likeness:
    """Tells which of many shifts one may be like, in a fraction of the time that asking each takes.

    Args:
        largest: height and width that no shift exceeds.
        channels: of all shifts.
        most: of them, at most.
    """

    def __init__(self, largest: tuple[int, int], channels: int, most: int) -> None:
        height, width = (next_fast_len(2 * length - 1, real=True) for length in largest)
        self._size = height, width
        self._spectra = np.empty((most, channels, height, width // 2 + 1), dtype=np.complex64)
        self._lengths = np.empty(most)
        self._n = 0

    @classmethod
    def to_any_of(cls, shifts: Sequence[Floats]) -> Likeness:
        """Return one that knows so many shifts of such sizes, but none of them yet."""
        heights, widths, channels = zip(*(shift.shape for shift in shifts), strict=True)
        return cls((max(heights), max(widths)), channels[0], len(shifts))

    def add(self, shift: Floats) -> None:
        """Know one more shift, (h, w, C)."""
        self._n += 1
        self.replace(self._n - 1, shift)

    def replace(self, index: int, shift: Floats) -> None:
        """Know a shift instead of the one that was the index-th to be added."""
        self._spectra[index] = self._spectrum(shift)
        self._lengths[index] = np.linalg.norm(shift)

    def candidates(self, shift: Floats) -> list[int]:
        """Return which of those known a shift may be like, ascending: all that it is like, and hardly any other."""
        agreement = irfft2(
            np.einsum("nchw,chw->nhw", self._spectra[: self._n], self._spectrum(shift).conj()), s=self._size
        )
        least = (_ALIKE - _ROUNDING) * np.linalg.norm(shift) * self._lengths[: self._n]
        return [int(i) for i in np.flatnonzero(agreement.max((1, 2), initial=-math.inf) >= least)]

    def _spectrum(self, shift: Floats) -> NDArray[np.complex64]:
        spectrum: NDArray[np.complex64] = rfft2(shift.transpose(2, 0, 1).astype(np.float32), s=self._size)
        return spectrum


def best_offset(shift: Floats, to: Floats) -> tuple[int, int] | None:
    """Return by how many rows and columns a shift must move to agree best with another, or None if it is not alike.

    Args:
        shift: (h, w, C).
        to: (H, W, C); both have their first row and column at 0.
    """
    agreement = sum(correlate(to[..., i], shift[..., i], mode="full") for i in range(to.shape[2]))
    best = np.unravel_index(np.argmax(agreement), agreement.shape)
    if agreement[best] < _ALIKE * np.linalg.norm(shift) * np.linalg.norm(to):
        return None
    # The first entry of a full correlation has the last row and column of the shift upon the first of the other.
    return int(best[0]) - shift.shape[0] + 1, int(best[1]) - shift.shape[1] + 1


def aligned(shift: Floats, to: Floats) -> Floats | None:
    """Return a shift moved and cut to where it agrees best with another, or None if it is not alike."""
    offset = best_offset(shift, to)
    if offset is None:
        return None
    moved = np.pad(shift, [(size, size) for size in to.shape[:2]] + [(0, 0)])
    top, left = to.shape[0] - offset[0], to.shape[1] - offset[1]
    return moved[top : top + to.shape[0], left : left + to.shape[1]]
