"""A verdict against the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.methods import Verdict


def score(verdict: Verdict, truth: NDArray[np.bool_], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Return the scores of a verdict, JSON-ready: shares in %, counts, and whether there was any alarm.

    Args:
        verdict: of N samples.
        truth: bool (N,), which samples are poisoned.
        labels: int64 (N,), as poisoned.

    Raises:
        ValueError: if the verdict is not about N samples.
    """
    learnt = {} if verdict.is_learnt is None else _learnt(verdict.is_learnt, truth)
    flagged = verdict.is_flagged
    if flagged.shape != truth.shape or flagged.dtype != np.bool_:
        raise ValueError(f"expected a verdict of bool {truth.shape}, got {flagged.dtype} {flagged.shape}")
    hits, false = int((flagged & truth).sum()), int((flagged & ~truth).sum())
    missed = int((~flagged & truth).sum())
    attacked = frozenset(labels[truth].tolist())
    return {
        "samples": len(truth),
        "poisoned": hits + missed,
        "flagged": hits + false,
        "f1": round(200 * hits / max(1, 2 * hits + false + missed), 3),
        "precision": round(100 * hits / max(1, hits + false), 3),
        "recall": round(100 * hits / max(1, hits + missed), 3),
        "false_positives": false,
        "false_positive_rate": round(100 * false / max(1, int((~truth).sum())), 4),
        "classes_right": len(verdict.accused & attacked),
        "classes_wrong": len(verdict.accused - attacked),
        "classes_attacked": len(attacked),
        "alarm": bool(verdict.accused) or hits + false > 0,
        **learnt,
    }


def _learnt(is_learnt: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float | None]:
    """Return the shares in % of clean and of poisoned samples whose labels a poisoned model gives back."""
    kinds = {"clean": is_learnt[~truth], "poisoned": is_learnt[truth]}
    return {f"learnt_{kind}": round(100 * float(part.mean()), 2) if len(part) else None for kind, part in kinds.items()}
