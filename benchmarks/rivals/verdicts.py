"""From flags to a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.methods import Task, Verdict
from benchmarks.rivals.victim import Victim


def verdict(
    data: Task,
    is_flagged: NDArray[np.bool_],
    seconds: Mapping[str, float],
    settings: Mapping[str, Any],
    *,
    victim: Victim | None = None,
    accused: frozenset[int] | None = None,
) -> Verdict:
    """Return a verdict; a method that names no class accuses each class that it flags a sample of.

    Args:
        data: the task of N samples.
        is_flagged: bool (N,).
        seconds: per stage.
        settings: fit for JSON.
        victim: the poisoned model that was looked into; its time, settings and success stand in the verdict.
        accused: the classes, from a method that judges classes.
    """
    named = frozenset(np.unique(data.labels[is_flagged]).tolist()) if accused is None else accused
    if victim is None:
        return Verdict(is_flagged, named, dict(seconds), dict(settings))
    spent = {"victim": victim.seconds, **seconds}
    return Verdict(is_flagged, named, spent, {**settings, **victim.settings}, victim.is_learnt)


def members(data: Task) -> list[NDArray[np.int64]]:
    """Return the indices of each class's samples, int64 (n,), ascending."""
    return [np.flatnonzero(data.labels == label) for label in range(data.n_classes)]


def clean_samples(data: Task) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return a task's clean images (M, H, W, C) and their labels (M,).

    Raises:
        ValueError: if it has none.
    """
    if data.clean_images is None or data.clean_labels is None:
        raise ValueError("expected a task with clean samples, got none; pass clean_images and clean_labels")
    return data.clean_images, data.clean_labels


def told_ratio(data: Task) -> float:
    """Return the share of poison that a task tells, 0 to 1.

    Raises:
        ValueError: if it tells none, or one out of range.
    """
    if data.ratio is None or not 0 <= data.ratio <= 1:
        raise ValueError(f"expected a task that tells its share of poison, 0 to 1, got {data.ratio}; pass ratio")
    return data.ratio
