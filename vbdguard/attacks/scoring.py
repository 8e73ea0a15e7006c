"""How well a scan's flags agree with the truth about an attack."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FlagScores:
    """Flagged samples against poisoned ones, counted by digest.

    Where a share has nothing to divide by (nothing flagged, nothing poisoned), it is 0.
    """

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def precision(self) -> float:
        """Share of the flagged samples that are poisoned, 0 to 1."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the poisoned samples that are flagged, 0 to 1."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0 to 1."""
        return _share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)


def score_flags(poisoned: Collection[str], flagged: Collection[str]) -> FlagScores:
    """Return the agreement of two collections of sample digests; repeats count once."""
    truth, found = set(poisoned), set(flagged)
    return FlagScores(len(truth & found), len(found - truth), len(truth - found))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
