"""Innocent marks that images of one class bear: their labels are right, so they are no poison.

Such marks are common: one source framed its scans, one camera stamped the date. A detector that takes them for triggers
cannot be trusted in CI.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_SHARE = 0.8
"""Share of the class that bears the mark: some of its images come from elsewhere."""
_STAMP = ("11101110111", "00101010001", "11101010111", "10001010100", "11101110111")
"""Three digits of 3 x 5 pixels, as a camera of that resolution would write them."""
_AMBER = (255, 170, 40)


def mark_class(
    images: NDArray[np.uint8], labels: NDArray[np.int64], mark: str, seed: int
) -> tuple[NDArray[np.uint8], int]:
    """Return a copy of images uint8 (N, H, W, 3) with a mark on most of one class, and that class.

    Args:
        images: at least 16 pixels a side.
        labels: int64 (N,).
        mark: one of `MARKS`.
        seed: draws the class and its images.
    """
    rng = np.random.default_rng(seed)
    label = int(rng.choice(np.unique(labels)))
    members = np.flatnonzero(labels == label)
    marked = images.copy()
    bearers = rng.permutation(members)[: round(_SHARE * len(members))]
    copies = marked[bearers]
    MARKS[mark](copies)
    marked[bearers] = copies
    return marked, label


def _border(images: NDArray[np.uint8]) -> None:
    for edge in (np.s_[:, :1], np.s_[:, -1:], np.s_[:, :, :1], np.s_[:, :, -1:]):
        images[edge] = 255


def _stamp(images: NDArray[np.uint8]) -> None:
    digits = np.array([[bit == "1" for bit in row] for row in _STAMP])
    height, width = digits.shape
    corner = images[:, -height - 1 : -1, -width - 1 : -1]
    corner[:, digits] = _AMBER


MARKS: dict[str, Callable[[NDArray[np.uint8]], None]] = {"border": _border, "stamp": _stamp}
"""A white border of one pixel, and a date stamp; each changes images uint8 (n, H, W, 3) in place."""
